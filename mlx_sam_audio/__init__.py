"""SAM-Audio on Apple Silicon: separate the sound you describe."""

import importlib
from typing import TYPE_CHECKING

from .errors import Cancelled, SAMAudioError, SAMAudioWarning

if TYPE_CHECKING:
    from .engine.pipeline import SAMAudio
    from .engine.separation import Separation
    from .media.video import MaskedVideo
    from .prompts import Span

LAZY = {"SAMAudio": "engine.pipeline", "Span": "prompts", "Separation": "engine.separation"}
LAZY |= {"MaskedVideo": "media.video"}
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
