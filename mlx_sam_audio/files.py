"""Files and folders that appear whole or not at all, alone or several together.

What is written has another name beside the final one until it is complete. That name says which
process of which machine writes it, so that what a killed one left is removed by the next.
"""

import contextlib
import hashlib
import itertools
import math
import os
import platform
import re
import shutil
import tempfile
import unicodedata
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from .errors import SAMAudioError, note

NODE = uuid.getnode()  # of the network card; a random number, which bit 40 tells, if there is none
HOST = re.sub(r"[^\w-]", "_", platform.node())[:40]  # of which several Macs may have the same
HOST += "" if NODE >> 40 & 1 else f"-{NODE & 0xFFFFFF:06x}"
PART = re.compile(r"\.([\w-]*)\.(\d+)\.\d+\.sam-audio-part")
numbers = itertools.count()
LONGEST = 60  # characters of a description in a name


def existing(path: str | Path) -> Path:
    """`path`, if it is a file that can be read and holds something."""
    path = Path(path)
    try:
        if path.is_dir():
            raise SAMAudioError(f"{path} is a folder, not a file")
        if not path.exists():
            raise SAMAudioError(f"there is no file {path}")
        if not path.is_file():
            raise SAMAudioError(f"{path} is no regular file: what a pipe gives is read as -")
        if path.stat().st_size == 0:
            raise SAMAudioError(f"{path} is empty")
        if not os.access(path, os.R_OK):
            raise SAMAudioError(f"{path} may not be read: its permissions forbid it")
    except (OSError, ValueError, RuntimeError) as error:  # too long, a zero byte, a loop of links
        raise SAMAudioError(f"cannot read {str(path)[:300]}: {reason(error)}") from None
    return path


def writable(path: str | Path, suffixes: Iterable[str]) -> Path:
    """`path`, if its name can be written to; a clear error before any work is done otherwise."""
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise SAMAudioError(f"cannot write {path}: the name must end in {' or '.join(suffixes)}")
    try:
        if path.is_dir():
            raise SAMAudioError(f"cannot write {path}: it is a folder")
        if path.exists() and not path.is_file():
            raise SAMAudioError(f"cannot write {path}: it is no regular file")
        path.lstat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError, RuntimeError) as error:
        raise SAMAudioError(f"cannot write {str(path)[:300]}: {reason(error)}") from None
    make_folder(path.parent)
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise SAMAudioError(
            f"cannot write into the folder {path.parent}: {reason(error)}"
        ) from None
    return path


def announce(*paths: str | Path) -> None:
    """Nothing is replaced without a word."""
    if there := [str(path) for path in paths if os.path.lexists(path)]:
        note(f"{' and '.join(there)} will be replaced")


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise SAMAudioError(
            f"cannot make the folder {str(folder)[:300]}: {reason(error)}"
        ) from None


def part(path: Path) -> Path:
    """Another name beside `path`, to write to; what dead processes left there is removed."""
    sweep(path.parent)
    return path.with_name(f".{HOST}.{os.getpid()}.{next(numbers)}.sam-audio-part")


def sweep(folder: Path) -> None:
    """Remove the unfinished files and folders in `folder` of processes that are gone."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            match = PART.fullmatch(entry.name)
            if match and match[1] == HOST and not runs(int(match[2])):
                remove(Path(entry))


def runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is somebody else's
        pass
    return True


def slug(text: str) -> str:
    """A description as a part of a file's name: "A dog!" is a-dog."""
    words = re.sub(r"\W+", "-", unicodedata.normalize("NFC", text).lower())
    return words[:LONGEST].strip("-_")


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def whole(*paths: str | Path) -> Iterator[list[Path]]:
    """Other names to write to, which become `paths` at the end of the body, all or none of them."""
    paths = [Path(path) for path in paths]
    parts = [part(path) for path in paths]
    try:
        yield parts
        put(parts, paths)
    except OSError as error:
        names = " and ".join(map(str, paths))
        raise SAMAudioError(f"cannot write {names}: {reason(error)}") from None
    finally:
        for each in parts:
            remove(each)


def put(parts: list[Path], paths: list[Path]) -> None:
    """Give finished files their names. What had the names is back where one of them cannot be
    given."""
    old = {path: part(path) for path in paths[:-1]}
    done = []
    try:
        for new, path in zip(parts, paths, strict=True):
            if path in old and os.path.lexists(path):
                keep(path, old[path])
            done.append(path)
            os.replace(new, path)
    except BaseException:
        for path in done:
            if path in old and os.path.lexists(old[path]):
                os.replace(old[path], path)
            elif path in old:
                remove(path)
        raise
    finally:
        for each in old.values():
            remove(each)


def keep(path: Path, name: Path) -> None:
    """A second name for a file, so that the first one is never missing where links are known."""
    try:
        os.link(path, name, follow_symlinks=False)
    except OSError:
        os.replace(path, name)


def append(path: Path, text: str) -> None:
    """Add whole lines to a file, whose last one a kill may have torn. Raises OSError."""
    with open(path, "ab+") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        torn = file.read(1) not in (b"", b"\n")
        file.write(b"\n" * torn + text.encode())
        file.flush()
        os.fsync(file.fileno())


def reason(error: Exception) -> str:
    """Why the system refused."""
    return getattr(error, "strerror", None) or str(error)


def sha256(path: str | Path, size: float = math.inf) -> str:
    """Of a file, or of its first bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(int(min(size, 2**20))):
            digest.update(block)
            size -= len(block)
    return digest.hexdigest()
