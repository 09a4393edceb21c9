"""SAM-Audio on Apple Silicon: separate the sound you describe."""

import importlib
from typing import TYPE_CHECKING

from .errors import Cancelled, SAMAudioError, SAMAudioWarning

if TYPE_CHECKING:
    from .pipeline import SAMAudio
    from .prompts import Span
    from .separation import Separation
    from .video import MaskedVideo

LAZY = {"SAMAudio": "pipeline", "Span": "prompts", "Separation": "separation"}
LAZY |= {"MaskedVideo": "video"}
__all__ = [
    "Cancelled",
    "MaskedVideo",
    "SAMAudio",
    "SAMAudioError",
    "SAMAudioWarning",
    "Separation",
    "Span",
]
__version__ = "0.1.0"


def __getattr__(name: str):
    """Imports what is heavy when it is first asked for."""
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{LAZY[name]}", __name__), name)
    globals()[name] = value
    return value
