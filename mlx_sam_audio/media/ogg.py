"""The pages of Ogg files (RFC 3533), of which FFmpeg leaves out damaged ones in silence."""

import mmap
import struct
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from ..errors import SAMAudioError, note

HEAD = struct.Struct("<4sBBqIIIB")
MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
FIRST, LAST = 2, 4


class Page(NamedTuple):
    """flags: FIRST or LAST of its stream. position: how many samples end in it or before: 0 of
    headers, -1 where none ends in it."""

    flags: int
    position: int
    stream: int
    number: int


def pages(path: Path) -> Iterator[Page]:
    """Those that are whole and undamaged."""
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        at = data.find(b"OggS")
        while 0 <= at <= len(data) - HEAD.size:
            _, _, flags, position, stream, number, check, count = HEAD.unpack_from(data, at)
            end = at + HEAD.size + count
            end += sum(data[at + HEAD.size : end])
            page = data[at:end]
            whole = len(page) == end - at and checksum(page) == check
            if whole:
                yield Page(flags, position, stream, number)
            at = data.find(b"OggS", end if whole else at + 1)


def checksum(page: bytes) -> int:
    """The CRC of a page without its own: zlib's, but bits run the other way, from 0 and as is."""
    blank = page[:22] + bytes(4) + page[26:]
    mirrored = zlib.crc32(blank.translate(MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


def check(path: Path, unit: Fraction) -> bool:
    """Is the last page there? Raises SAMAudioError where others are missing. unit: seconds of a
    position."""
    before: dict[int, Page] = {}
    page = None
    for page in pages(path):
        old = before.get(page.stream, page)
        if page.number > old.number + 1 and not page.flags & FIRST:
            if old.position:
                raise SAMAudioError(f"{path} is damaged after {float(old.position * unit):.1f} s")
            note(f"{path} begins in the middle: what came first is missing")  # as in a broadcast's
        position = old.position if page.position < 0 else page.position
        before[page.stream] = page._replace(position=position)
    return page is not None and page.flags & LAST > 0
