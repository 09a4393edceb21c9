"""The kernels that MLX compiles, and loads from files."""

import functools
import os
import shutil
from pathlib import Path

import mlx.core as mx

from ..errors import note
from ..models.cpu import on_cpu

PLACES = ("TMPDIR", "TMP", "TEMP", "TEMPDIR")  # where C++ looks for a temporary folder, in order
ROOM = 2**24  # bytes


def place() -> Path:
    """Where MLX keeps what it compiles."""
    return Path(next((os.environ[name] for name in PLACES if name in os.environ), "/tmp")) / "mlx"


@functools.cache
def guard_kernels() -> None:
    """MLX's CPU backend keeps the kernels that it compiles in a folder of fixed name, and loads
    what lies there: on a machine that several people use, it must be this user's alone."""
    if not on_cpu():
        return
    folder, why = place(), ""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        state = folder.stat(follow_symlinks=False)
        if not folder.is_dir() or state.st_uid != os.getuid() or state.st_mode & 0o022:
            why = "is not this user's alone"
        elif shutil.disk_usage(folder).free < ROOM:
            why = "has no room"
    except OSError as error:
        why = f"cannot be used ({error.strerror})"
    if why:
        mx.disable_compile()
        note(f"{folder} {why}: kernels are not compiled, which takes longer")
