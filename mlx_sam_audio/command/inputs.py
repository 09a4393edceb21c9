"""Which recordings the command is about."""

import os
import re
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import SAMAudioError
from ..files import reason
from . import manifest
from .options import home

SUFFIXES = set(
    ".wav .wave .bwf .rf64 .w64 .flac .aif .aiff .aifc .caf .au .snd .voc .mp2 .mp3 .m4a .m4b .aac "
    ".ogg .oga .opus .wma .wv .ape .tta .tak .mpc .ac3 .eac3 .dts .amr .mp4 .m4v .mov .mkv .mka "
    ".webm .avi .mpg .mpeg .ts .mts .m2ts .3gp .3g2 .flv .wmv .asf .mxf".split()
)
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


@dataclass(frozen=True)
class Source:
    """A recording. folder: where its results lie, below the folder of all results."""

    path: Path
    name: str
    folder: Path = field(default_factory=Path)

    def __str__(self) -> str:
        return self.name


def sources(given: Iterable[str], recursive: bool, spool: Path | None) -> tuple[list[Source], bool]:
    """All of them, in order, and whether they may be many. spool: a folder for what stdin gives."""
    found, many = [], False
    for name in map(home, given):
        if ADDRESS.match(name):
            raise SAMAudioError(f"{name} is an address: download it first, and name the file")
        if name == "-":
            found.append(Source(spooled(spool), "stdin"))
        elif os.path.isdir(name):
            found += below(Path(name), recursive)
            many = True
        else:
            found.append(Source(Path(name), name))
    if not found:
        raise SAMAudioError("no input: name a recording, or try --demo")
    found = list({one.path: one for one in found}.values())  # each once
    return found, many or len(found) > 1


def below(folder: Path, recursive: bool) -> list[Source]:
    """The recordings in a folder, sorted; what is hidden and what we wrote there is none."""
    found, written = [], set()

    def refuse(error: OSError) -> None:
        raise SAMAudioError(f"cannot read the folder {error.filename}: {reason(error)}") from None

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        written |= manifest.outputs(Path(place))
        paths = (Path(place, name) for name in names if not name.startswith("."))
        found += [path for path in paths if path.suffix.lower() in SUFFIXES]
    found = sorted(path for path in found if os.path.realpath(path) not in written)
    if not found:
        where = folder if recursive else f"{folder} (-r takes the folders below it, too)"
        raise SAMAudioError(f"there are no sound or video files in {where}")
    return [Source(path, str(path), path.parent.relative_to(folder)) for path in found]


def spooled(folder: Path | None) -> Path:
    """A file with all that comes from stdin."""
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None or folder is None or sys.stdin.isatty():
        raise SAMAudioError("nothing comes from stdin: pipe a recording into it")
    path = folder / "stdin"
    try:
        with open(path, "wb") as file:
            shutil.copyfileobj(stream, file)
    except OSError as error:
        raise SAMAudioError(f"cannot keep what comes from stdin: {reason(error)}") from None
    if not path.stat().st_size:
        raise SAMAudioError("nothing comes from stdin: pipe a recording into it")
    return path
