"""What a model folder holds, file by file, so that no changed, missing or added weight is used.

The conversion writes it last. Loading compares sizes, the headers of weights, and all of the small
files; large ones are read whole once in each place that a model lies in, or when asked for.
"""

import contextlib
import hashlib
import json
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from tqdm import tqdm

from ..errors import SAMAudioError
from ..files import reason, sha256
from ..models.schema import Wrong, parse
from .store import HUB
from .strict_json import read_json

NAME = "manifest.json"
SMALL = 16 * 2**20  # bytes of a file that is read whole whenever a model is loaded
WEIGHTS = ".safetensors"
Digest = Annotated[str, 64, 64]


@dataclass(frozen=True)
class Entry:
    bytes: Annotated[int, 0, 2**50]
    sha256: Digest
    header_sha256: Digest | None  # of weights: their names, types and places, not their values


@dataclass(frozen=True)
class Manifest:
    files: dict[str, Entry]

    def wrong(self) -> Wrong:
        odd = [name for name in self.files if Path(name).name != name or name in (NAME, "..")]
        return {"a file of it lies elsewhere": odd}


def read(folder: Path) -> dict[str, Entry]:
    """What the files of a model folder must be, by name. Raises SAMAudioError."""
    path = folder / NAME
    if not path.is_file():
        raise SAMAudioError(
            f"{folder} holds no {NAME}, or it was made by an older version: convert it again"
        )
    return parse(Manifest, read_json(path), path).files


def others(folder: Path) -> list[str]:
    """What lies in a model's folder that is no part of the model."""
    ours = {NAME, HUB, ".DS_Store", *read(folder)}
    return sorted(path.name for path in folder.iterdir() if path.name not in ours or path.is_dir())


def write(folder: Path) -> None:
    """Describe the files that a model folder holds."""
    paths = sorted(path for path in folder.glob("[!.]*") if path.is_file() and path.name != NAME)
    entries = {path.name: asdict(describe(path)) for path in paths}
    (folder / NAME).write_text(json.dumps({"files": entries}, indent=2) + "\n")


def describe(path: Path) -> Entry:
    header = header_sha256(path) if path.suffix == WEIGHTS else None
    return Entry(path.stat().st_size, sha256(path), header)


def check(folder: Path, verify: bool, stamps: Path) -> None:
    """Compare the files of a model folder with what the conversion wrote.

    verify: read large files, too. Otherwise they are read the first time that the folder is seen
    in this place and shape: a stamp in the folder `stamps` says so. Raises SAMAudioError.
    """
    entries = read(folder)
    for path in folder.glob(f"*{WEIGHTS}"):
        if path.name not in entries and not path.name.startswith("."):  # macOS adds hidden ones
            raise SAMAudioError(f"{path} is no part of the model: remove it")
    unread = large(entries)
    try:
        for name, entry in entries.items():
            compare(folder / name, entry, whole=name not in unread)
        mark = stamp(folder, entries, stamps)
        if unread and (verify or not mark.exists()):
            with contextlib.suppress(OSError):
                mark.unlink()  # it may turn out to be wrong
            for name in tqdm(unread, desc="checking", disable=None, leave=False):
                compare(folder / name, entries[name], whole=True)
            remember(folder, entries, stamps)
    except OSError as error:
        raise SAMAudioError(f"cannot read {error.filename or folder}: {reason(error)}") from None


def large(entries: dict[str, Entry]) -> list[str]:
    return [name for name, entry in entries.items() if entry.bytes > SMALL]


def compare(path: Path, entry: Entry, whole: bool) -> None:
    if not path.exists():
        raise SAMAudioError(f"{path} is missing: convert or download the model again")
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        difference = "it is no file"
    elif status.st_size != entry.bytes:
        difference = f"it has {status.st_size} bytes instead of {entry.bytes}"
    elif whole and sha256(path) != entry.sha256:
        difference = "its sha256 differs"
    elif entry.header_sha256 and header_sha256(path) != entry.header_sha256:
        difference = "its header differs"
    else:
        return
    raise SAMAudioError(
        f"{path} is not what the conversion wrote: {difference}; convert or download it again"
    )


def stamp(folder: Path, entries: dict[str, Entry], stamps: Path) -> Path:
    """An empty file, named after a folder's place and its files as far as `stat` tells."""
    found = [(name, (folder / name).stat()) for name in sorted(entries)]
    found = [(name, status.st_size, status.st_mtime_ns) for name, status in found]
    shape = repr((str(folder.resolve()), found, sorted(entries.items())))
    return stamps / hashlib.sha256(shape.encode(errors="surrogateescape")).hexdigest()


def remember(folder: Path, entries: dict[str, Entry], stamps: Path) -> None:
    """Write the stamp that says that large files were read whole. Where that cannot be done, they
    are read again the next time."""
    with contextlib.suppress(OSError):
        if large(entries):
            stamps.mkdir(parents=True, exist_ok=True)
            stamp(folder, entries, stamps).touch()


def header_sha256(path: Path) -> str:
    """Of the eight bytes that tell a header's length, and of the header."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    return sha256(path, 8 + length)
