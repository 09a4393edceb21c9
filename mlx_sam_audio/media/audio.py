"""Sound files: read any as mono or stereo at one rate, block by block (`sound_files` writes them).

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
from .decoding import Piece, decoded, plain
from .layouts import folding, mono, stereo

LOUDEST = 1000.0  # 60 dB above full scale
UNKNOWN = 2**62  # frames of a FLAC whose header does not tell


def read(path: str | os.PathLike, sample_rate: int) -> np.ndarray:
    """The file's sound, channels averaged, at `sample_rate`: (T,) float32."""
    return np.concatenate(list(blocks(path, sample_rate)))


class Recording(os.PathLike):
    """A sound file at one rate, for several passes over its blocks, which are the same or an error:
    somebody may write to it while it is being separated. channels: 1 or 2, as in `blocks`."""

    def __init__(self, path: str | os.PathLike, sample_rate: int, channels: int = 1):
        self._path, self._sample_rate, self._first = Path(path), sample_rate, None
        self.channels = channels
        self._stamp = stamp(existing(path))

    def __fspath__(self) -> str:
        return str(self._path)

    def __str__(self) -> str:
        return str(self._path)

    def __iter__(self) -> Iterator[np.ndarray]:
        sha = hashlib.sha256()
        for block in blocks(self._path, self._sample_rate, self.channels):
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


def blocks(path: str | os.PathLike, sample_rate: int, channels: int = 1) -> Iterator[np.ndarray]:
    """The same in consecutive pieces, so that memory does not grow with the file: (t,) where one
    channel is wanted, else (2, t): stereo as it is, mono twice, more channels folded with a note
    where the file names them (see `folds`). Raises SAMAudioError."""
    path = existing(path)
    resampler, rate, empty = None, sample_rate, True
    pieces = mono(decoded(path)) if channels == 1 else stereo(decoded(path), path)
    for piece, given in pieces:
        empty = empty and not len(piece)
        piece = sound(piece, path)
        if given != rate:  # at the beginning, or where streams of several rates were joined
            if resampler is not None:
                yield rows(resampler.resample_chunk(piece[:0], last=True))
            rate, resampler = given, None
            if rate != sample_rate:
                resampler = soxr.ResampleStream(rate, sample_rate, channels, "float32", "VHQ")
        yield rows(piece if resampler is None else resampler.resample_chunk(piece))
    if empty:
        raise SAMAudioError(f"{path} holds no samples")
    if resampler is not None:
        yield rows(resampler.resample_chunk(piece[:0], last=True))


def rows(samples: np.ndarray) -> np.ndarray:
    """(T,) as it is, (T, channels) as (channels, T)."""
    return np.ascontiguousarray(samples.T)


def channels(path: str | os.PathLike) -> int:
    """How many the file has, where it begins."""
    return beginning(path)[0].shape[1]


def folds(path: str | os.PathLike) -> bool:
    """Whether `blocks` can make two channels of it: it has no more, or tells where each belongs."""
    samples, _, names = beginning(path)
    return samples.shape[1] <= 2 or folding(names) is not None


def beginning(path: str | os.PathLike) -> Piece:
    """The first piece that is decoded, which tells more than headers do."""
    for piece in decoded(existing(path)):
        return piece
    raise SAMAudioError(f"{path} holds no samples")


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
    counts = [(rate, sum(len(block) for block, *_ in run)) for rate, run in runs]
    return sum(resampled(count, rate, sample_rate) for rate, count in counts)


def resampled(samples: int, rate: int, sample_rate: int) -> int:
    """How many soxr makes of so many samples."""
    return math.floor(samples * sample_rate / rate + 0.5)
