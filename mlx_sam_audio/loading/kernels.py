"""The kernels that MLX compiles, and loads from files."""

import functools
import os
import tempfile
from pathlib import Path

import mlx.core as mx

from ..errors import note
from ..models.cpu import on_cpu


@functools.cache
def guard_kernels() -> None:
    """MLX's CPU backend keeps the kernels that it compiles in a folder of fixed name, and loads
    what lies there: on a machine that several people use, it must be this user's alone."""
    if not on_cpu():
        return
    folder = Path(tempfile.gettempdir()) / "mlx"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        state = folder.stat(follow_symlinks=False)
        safe = folder.is_dir() and state.st_uid == os.getuid() and not state.st_mode & 0o002
    except OSError:
        safe = False
    if not safe:
        mx.disable_compile()
        note(f"{folder} is not this user's alone: kernels are not compiled, which takes longer")
