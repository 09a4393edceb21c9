"""An app that PyInstaller freezes: `pip install '.[frozen]' && python -m pytest -m frozen`."""

import subprocess
import sys

import pytest

APP = """
import importlib
import sys
import numpy as np
from mlx_sam_audio import SAMAudio
from mlx_sam_audio.media import audio

model = SAMAudio.from_pretrained("demo")
wave = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
model.separate(wave, "a bird", steps=2).save("target.wav", "residual.wav")
assert importlib.import_module("convert.known").LICENSE.is_file()  # for models of the hub
assert sys.frozen and len(audio.read("target.wav", 16_000)) == 16_000
"""


@pytest.mark.frozen
def test_an_app_in_one_folder_needs_no_options(tmp_path):
    (tmp_path / "app.py").write_text(APP)
    build = [sys.executable, "-m", "PyInstaller", "--onedir", "--log-level", "ERROR", "app.py"]
    subprocess.run(build, cwd=tmp_path, check=True)
    subprocess.run(["dist/app/app"], cwd=tmp_path, check=True)
