"""What lies on disk: one folder for each file and job, named by an id that nobody can guess.

A folder appears whole or not at all. Names of clients are texts in JSON, never paths.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import tempfile
import time
import types
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar, get_origin, get_type_hints

from ..errors import SAMAudioError
from ..files import make_folder, reason, remove, sweep, whole
from .refusal import Refusal, missing

TEMPORARY = "mlx-sam-audio-server."
ID = re.compile(r"[fj]_[0-9a-f]{32}")
FREE = 2**26  # bytes of the disk that are left to others
DECODED = 2  # uploads that are decoded at a time
T = TypeVar("T")


@dataclass
class File:
    """An uploaded recording."""

    id: str
    name: str  # the client's
    bytes: int
    seconds: float
    sample_rate: int
    channels: int
    video: dict | None  # {"width", "height"} of its upright pictures
    created: float
    expires: float | None
    samples: int
    sides: str  # how its channels are heard: Settings.stereo
    type: str  # of its container, for browsers
    plain: bool  # whether it can be read from any sample on

    def view(self) -> dict:
        """What clients are told."""
        private = ("samples", "sides", "type", "plain")
        return {name: value for name, value in asdict(self).items() if name not in private}


class Shelf:
    """The files and the folders of jobs. expire: seconds that they are kept, None for good; most:
    bytes of all."""

    def __init__(self, folder: Path, expire: float | None = None, most: float = float("inf")):
        self.expire, self.most = expire, most
        self._places = {"f": folder / "files", "j": folder / "jobs"}
        for place in self._places.values():
            make_folder(place)
            sweep(place)
        self.looking = asyncio.Semaphore(DECODED)
        found = (kept_as(File, folder / "file.json") for folder in self.kept("f"))
        self.files = {file.id: file for file in found if file}

    def kept(self, kind: str) -> list[Path]:
        """The folders of a kind."""
        return [path for path in self._places[kind].iterdir() if ID.fullmatch(path.name)]

    def place(self, id: str) -> Path:
        """Its folder, there or not."""
        if not ID.fullmatch(id):
            raise missing("such thing")
        return self._places[id[0]] / id

    def file(self, id: object) -> File:
        if not isinstance(id, str) or id not in self.files:
            raise missing("such file")
        return self.files[id]

    def content(self, file: File) -> Path:
        """What was uploaded."""
        return own(self.place(file.id) / "content")

    def lane(self, file: File) -> Path:
        """The same sound, as one can read it from any sample on."""
        return self.content(file) if file.plain else own(self.place(file.id) / "lane.wav")

    @contextlib.contextmanager
    def making(self, id: str) -> Iterator[Path]:
        """A new folder, which gets its name at the end of the body."""
        with whole(self.place(id)) as (part,):
            part.mkdir(mode=0o700)
            yield part

    def forget(self, id: str) -> None:
        self.files.pop(id, None)
        remove(self.place(id))

    def ends(self, since: float) -> float | None:
        """When something expires."""
        return None if self.expire is None else since + self.expire

    def expired(self) -> list[str]:
        now = time.time()
        return [one.id for one in self.files.values() if one.expires and one.expires < now]

    def check_room(self, more: int) -> None:
        """Raises Refusal if so many bytes more are too many."""
        place = self._places["f"].parent
        free = shutil.disk_usage(place).free - FREE
        if more > min(self.most - used(place), free):
            raise Refusal(
                507,
                "no_room",
                "there is no room for this on the server: delete files and jobs, or wait until "
                "they expire",
            )


def new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(16)}"


def used(folder: Path) -> int:
    """Bytes of all files below; those with several names count once."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                state = os.lstat(os.path.join(place, name))
                found[state.st_dev, state.st_ino] = state.st_size
    return sum(found.values())


def link(source: Path, target: Path) -> None:
    """Another name for a file, so that it stays when the first one goes."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_json(path: Path, values: dict) -> None:
    with whole(path) as (part,):
        part.write_text(json.dumps(values))


def read_json(path: Path) -> dict | None:
    """What we wrote; None for anything else."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def own(path: Path) -> Path:
    """A file that we wrote: a folder that is kept may hold what others put there."""
    if path.is_symlink() or not path.is_file():
        raise missing("such file any more")
    return path


def kept_as(kind: type[T], path: Path) -> T | None:
    """What we wrote of a dataclass; None for anything else."""
    values, hints = read_json(path), get_type_hints(kind)
    if values is None or values.keys() != hints.keys():
        return None
    for name, hint in hints.items():
        plain = hint if isinstance(hint, types.UnionType) else get_origin(hint) or hint
        value = values[name]
        if type(value) is int and isinstance(0.5, plain):  # JSON's numbers
            value = float(value)
        if not isinstance(value, plain):
            return None
    return kind(**values)


@contextlib.contextmanager
def opened(keep: Path | None) -> Iterator[Path]:
    """A server's folder: the one to keep, or a temporary one that ends with the server."""
    if keep is not None:
        make_folder(keep)
        with locked(keep):
            yield keep
        return
    sweep_dead(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, ignore_cleanup_errors=True) as folder:
        with locked(Path(folder)):
            yield Path(folder)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """As long as its server lives, no other one takes the folder."""
    try:
        lock = open(folder / "lock", "a")
    except OSError as error:
        raise SAMAudioError(f"cannot keep anything in {folder}: {reason(error)}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SAMAudioError(
                f"another server keeps its files in {folder}: give this one another folder"
            ) from None
        except OSError:  # a share that knows no locks
            pass
        yield


def sweep_dead(place: Path) -> None:
    """Remove the temporary folders of servers that were killed."""
    for folder in place.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError, SAMAudioError):
            ours = folder.lstat().st_uid == os.getuid() and not folder.is_symlink()
            if ours and (folder / "lock").is_file():
                with locked(folder):
                    remove(folder)
