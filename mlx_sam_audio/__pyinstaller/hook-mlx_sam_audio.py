"""Modules that are imported when they are first used, the bundled model, and MLX's kernels."""

from PyInstaller.utils.hooks import collect_all, collect_data_files, collect_submodules

datas, binaries, hiddenimports = collect_all("mlx")
datas += collect_data_files("mlx_sam_audio") + collect_data_files("convert")
hiddenimports += collect_submodules("mlx_sam_audio") + collect_submodules("convert")
