"""What headers of sound files promise, and whether the files keep it."""

import os
import re
import struct
from pathlib import Path

from ..errors import note
from .containers import audible, opened

UNCOMPRESSED = (1, 3, 6, 7, 0xFFFE)  # formats of wav files
PIPED = 2**31 - 2**16  # bytes; programs that do not know how many write so many or more
SLACK = 0.1, 4096  # seconds and samples that encoders add or headers round away
# formats whose headers tell how long the sound is; for the others FFmpeg guesses
TELLING = frozenset("mov matroska webm wav w64 flac caf aiff asf tta wv ape".split())


def compare(path: Path, seconds: float, rate: int, broken: bool = False) -> None:
    """Say so where a file does not hold as much sound as its header promises."""
    promise = promised(path)
    if promise and abs(seconds - promise) > max(SLACK[0], SLACK[1] / rate):
        verb = "ends after" if seconds < promise else "goes on for"
        note(f"{path} {verb} {seconds:.1f} s, where its header promises {promise:.1f} s")
    elif broken:
        note(f"{path} breaks off after {seconds:.1f} s: its end is missing")


def promised(path: Path) -> float | None:
    """Seconds of sound that the file's header tells, if it does."""
    if seconds := promised_by_wav(path):
        return seconds
    with opened(path) as container:
        name, stream = container.format.name.split(",")[0], audible(container, path)
        if name not in TELLING and not (name == "mp3" and has_count(path)):
            return None
        if stream.duration is not None:
            return float(stream.duration * stream.time_base)
        clock = stream.metadata.get("DURATION", "")  # Matroska's: 00:00:07.300000000
        if re.fullmatch(r"\d+:\d+:[\d.]+", clock):
            end = sum(float(n) * s for n, s in zip(clock.split(":"), (3600, 60, 1), strict=True))
            # FFmpeg writes when it ends, others how long it is
            late = container.metadata.get("ENCODER", "").startswith("Lavf")
            return end - late * float((stream.start_time or 0) * stream.time_base)
        return None if container.streams.video else (container.duration or 0) / 1e6


def promised_by_wav(path: Path) -> float | None:
    """The same for an uncompressed wav, of which libsndfile and FFmpeg tell only what is there."""
    with open(path, "rb") as file:
        if file.read(4) not in (b"RIFF", b"RF64"):
            return None
        file.seek(12)
        bytes_a_second = long = 0
        while len(head := file.read(8)) == 8:
            name, size = struct.unpack("<4sI", head)
            if name == b"data":
                size = long or size
                known = 0 < size < PIPED or long
                return size / bytes_a_second if known and bytes_a_second else None
            chunk = file.read(16) if name in (b"fmt ", b"ds64") else b""
            if name == b"fmt " and len(chunk) == 16:
                kind, _, rate, _, align, _ = struct.unpack("<HHIIHH", chunk)
                bytes_a_second = rate * align if kind in UNCOMPRESSED else 0
            elif name == b"ds64":
                long = int.from_bytes(chunk[8:16], "little")
            file.seek(size + size % 2 - len(chunk), os.SEEK_CUR)
    return None


def has_count(path: Path) -> bool:
    """Does the first frame of an mp3 say how many there are (Xing, Info, VBRI)?"""
    with open(path, "rb") as file:
        start = file.read(10)
        size = sum(byte << 7 * (3 - i) for i, byte in enumerate(start[6:10]))
        file.seek(10 + size if start[:3] == b"ID3" else 0)
        head = file.read(2048)
    return any(mark in head for mark in (b"Xing", b"Info", b"VBRI"))
