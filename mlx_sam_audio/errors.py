"""The one exception and the one warning a user can meet; all else is a bug with its traceback."""

import warnings


class SAMAudioError(Exception):
    """Bad input, settings or files, said in one sentence: what, where, and what to do."""

    def __init__(self, message: str):
        super().__init__(plain(message))


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
