"""What the package warns of goes to the job or file that it is about."""

import contextlib
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import SAMAudioWarning

heard = threading.local()  # by the thread that works for one of them


@contextlib.contextmanager
def collected() -> Iterator[None]:
    """While a server runs, `listening` hears the warnings of its thread."""
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(message, category, *where):
            found = getattr(heard, "notes", None)
            if found is None or not issubclass(category, SAMAudioWarning):
                others(message, category, *where)
            elif str(message) not in found:
                found.append(str(message))

        warnings.showwarning = show
        warnings.simplefilter("always", SAMAudioWarning)
        yield


@contextlib.contextmanager
def listening() -> Iterator[list[str]]:
    """The warnings of this thread, each once."""
    heard.notes = []
    try:
        yield heard.notes
    finally:
        heard.notes = None


def named(text: str, names: Mapping[Path, str]) -> str:
    """The same with clients' names instead of our paths."""
    for path, name in names.items():
        text = text.replace(str(path), name)
    return text
