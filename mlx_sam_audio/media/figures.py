"""Pictures with matplotlib, which is an extra."""

from pathlib import Path

from ..errors import SAMAudioError
from ..files import make_folder, whole


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
    make_folder(Path(path).parent)
    with whole(path) as (part,):
        picture.savefig(part, dpi=dpi, format="png")
