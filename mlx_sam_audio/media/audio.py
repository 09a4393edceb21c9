"""Sound files: read any as mono at one rate, block by block (`sound_files` writes them).

Every sample is the recording's: what is read is what FFmpeg decodes, to the sample. A file that
ends early or disagrees with its header is used as far as it goes, with a note; one that is damaged
before its end is refused, since what follows would lie at the wrong time.
"""

import contextlib
import hashlib
import itertools
import math
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import soxr

from ..errors import SAMAudioError
from ..files import existing
from .decoding import decoded, plain

LOUDEST = 1000.0  # 60 dB above full scale
UNKNOWN = 2**62  # frames of a FLAC whose header does not tell


def read(path: str | os.PathLike, sample_rate: int) -> np.ndarray:
    """The file's sound, channels averaged, at `sample_rate`: (T,) float32."""
    return np.concatenate(list(blocks(path, sample_rate)))


class Recording(os.PathLike):
    """A sound file at one rate, for several passes over its blocks, which are the same or an error:
    somebody may write to it while it is being separated."""

    def __init__(self, path: str | os.PathLike, sample_rate: int):
        self._path, self._sample_rate, self._first = Path(path), sample_rate, None
        self._stamp = stamp(existing(path))

    def __fspath__(self) -> str:
        return str(self._path)

    def __str__(self) -> str:
        return str(self._path)

    def __iter__(self) -> Iterator[np.ndarray]:
        sha = hashlib.sha256()
        for block in blocks(self._path, self._sample_rate):
            sha.update(block)
            yield block
        self._first = self._first or sha.digest()
        if sha.digest() != self._first:
            raise self._changed()

    @cached_property
    def samples(self) -> int:
        """How many there are: what the header of an uncompressed file tells; all else is decoded
        to be counted, since headers err."""
        path, rate = existing(self._path), self._sample_rate
        with plain(path) or contextlib.nullcontext() as header:
            sure = header is not None and header.format != "FLAC"
        count = length(path, rate) if sure else counted(path, rate)
        if not count:
            raise SAMAudioError(f"{path} holds no samples")
        return count

    def check(self) -> None:
        """Raises SAMAudioError if the file, of which more than the sound is used, was changed."""
        if stamp(existing(self._path)) != self._stamp:
            raise self._changed()

    def _changed(self) -> SAMAudioError:
        return SAMAudioError(
            f"{self._path} changed while it was being separated: start again with a copy"
        )


def stamp(path: Path) -> tuple[int, ...]:
    """Differs when a file was written to or replaced."""
    state = path.stat()
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


def blocks(path: str | os.PathLike, sample_rate: int) -> Iterator[np.ndarray]:
    """The same in consecutive pieces, so that memory does not grow with the file."""
    path = existing(path)
    resampler, rate, empty = None, sample_rate, True
    for block, given in decoded(path):
        empty = empty and not len(block)
        with np.errstate(over="ignore", invalid="ignore"):  # which are refused in a sentence
            mono = sound(block.mean(axis=1), path)
        if given != rate:  # at the beginning, or where streams of several rates were joined
            if resampler is not None:
                yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
            rate, resampler = given, None
            if rate != sample_rate:
                resampler = soxr.ResampleStream(rate, sample_rate, 1, "float32", "VHQ")
        yield mono if resampler is None else resampler.resample_chunk(mono)
    if empty:
        raise SAMAudioError(f"{path} holds no samples")
    if resampler is not None:
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def sound(samples: np.ndarray, where: object) -> np.ndarray:
    """The samples, if they can be sound. Raises SAMAudioError."""
    peak = float(np.abs(samples).max(initial=0.0))
    if not math.isfinite(peak):
        raise SAMAudioError(f"{where} holds NaN or infinite samples")
    if peak > LOUDEST:
        raise SAMAudioError(
            f"{where} holds samples of {peak:.3g}: full scale is -1 to 1, scale them down"
        )
    return samples


def resample(waves: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    """(k, T) float32 at `rate` -> the same at `sample_rate`."""
    if rate == sample_rate:
        return waves
    return soxr.resample(waves.T, rate, sample_rate, quality="VHQ").T


def length(path: str | os.PathLike, sample_rate: int) -> int | None:
    """Samples at `sample_rate` that the file's header promises; None where it does not say."""
    header = plain(existing(path))
    if header is None:
        return None
    with header:
        if not 0 < header.frames < UNKNOWN:
            return None
        return resampled(header.frames, header.samplerate, sample_rate)


def counted(path: Path, sample_rate: int) -> int:
    """Samples at `sample_rate`, by decoding all of them."""
    runs = itertools.groupby(decoded(path), key=lambda piece: piece[1])
    counts = [(rate, sum(len(block) for block, _ in run)) for rate, run in runs]
    return sum(resampled(count, rate, sample_rate) for rate, count in counts)


def resampled(samples: int, rate: int, sample_rate: int) -> int:
    """How many soxr makes of so many samples."""
    return math.floor(samples * sample_rate / rate + 0.5)
