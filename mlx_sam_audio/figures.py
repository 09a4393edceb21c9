"""Pictures with matplotlib, which is an extra."""

import os
from pathlib import Path

from .audio import make_folder
from .errors import SAMAudioError


def figure(width: float, height: float):
    """A matplotlib Figure of so many inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SAMAudioError(
            "pictures need matplotlib: `pip install 'mlx-sam-audio[plot]'`"
        ) from None
    return Figure(figsize=(width, height), layout="constrained")


def save(picture, path: str | Path, dpi: int = 150) -> None:
    """Write a PNG, whole or not at all."""
    path = Path(path)
    make_folder(path.parent)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        picture.savefig(part, dpi=dpi, format="png")
        os.replace(part, path)
    except OSError as error:
        raise SAMAudioError(f"cannot write {path}: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)
