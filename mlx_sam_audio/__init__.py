"""SAM-Audio on Apple Silicon: separate the sound you describe."""

from .errors import Cancelled, SAMAudioError
from .pipeline import SAMAudio
from .prompts import Span
from .separation import Separation
from .video import MaskedVideo

__all__ = ["Cancelled", "MaskedVideo", "SAMAudio", "SAMAudioError", "Separation", "Span"]
__version__ = "0.1.0"
