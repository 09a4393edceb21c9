"""The one exception and the one warning a user can meet; all else is a bug with its traceback."""

import warnings
from types import CodeType

# of functions that C calls, which lets no KeyboardInterrupt through
DEAF: set[CodeType] = set()


class SAMAudioError(Exception):
    """Bad input, settings or files, said in one sentence: what, where, and what to do."""

    exit_status = 2  # of a command that it ends

    def __init__(self, message: str):
        super().__init__(plain(message))


class Gone(SAMAudioError):
    """Other processes that made the run, too, are gone."""

    exit_status = 75


class Cancelled(SAMAudioError):
    """The caller's `cancel` said so."""


class SAMAudioWarning(UserWarning):
    """What a user must know of a result that was made all the same."""


def note(message: str) -> None:
    """Warn; the commands print it as a line."""
    warnings.warn(plain(message), SAMAudioWarning, stacklevel=3)


def plain(text: object) -> str:
    """One printable line: names of files may hold anything, terminals obey control characters."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def shown(value: object) -> str:
    """A value that somebody gave, in a few words."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array {value.shape} of {value.dtype}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}... ({type(value).__name__})"


def check_finite(values: object, what: str = "the network's output") -> None:
    """Raises SAMAudioError where half precision overflowed in an array, or weights are damaged."""
    import mlx.core as mx
    import numpy as np

    if isinstance(values, mx.array):
        finite = mx.isfinite(values).all().item()
    else:  # without another array as large
        finite = np.isfinite(values.sum(dtype=np.float64))
    if not finite:
        raise SAMAudioError(
            f"{what} is not finite: convert the model with --dtype bfloat16 or float32"
        )
