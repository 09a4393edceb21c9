"""SAM-Audio on Apple Silicon: separate the sound you describe."""

import importlib
from typing import TYPE_CHECKING

from .errors import Cancelled, SAMAudioError, SAMAudioWarning

if TYPE_CHECKING:
    from .engine.mixture import Mixture
    from .engine.progress import Progress
    from .engine.separation import Separation, Stems
    from .media.video import MaskedVideo
    from .model import SAMAudio
    from .prompts import Span
    from .settings import Settings

LAZY = {
    "MaskedVideo": "media.video",
    "Mixture": "engine.mixture",
    "Progress": "engine.progress",
    "SAMAudio": "model",
    "Separation": "engine.separation",
    "Settings": "settings",
    "Span": "prompts",
    "Stems": "engine.separation",
}
__all__ = [
    "Cancelled",
    "MaskedVideo",
    "Mixture",
    "Progress",
    "SAMAudio",
    "SAMAudioError",
    "SAMAudioWarning",
    "Separation",
    "Settings",
    "Span",
    "Stems",
]
__version__ = "0.1.0"


def __getattr__(name: str):
    """Imports what is heavy when it is first asked for."""
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{LAZY[name]}", __name__), name)
    globals()[name] = value
    return value
