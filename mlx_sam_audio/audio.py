"""Sound files: read any as mono at one rate, block by block; write one whole or not at all."""

import contextlib
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

from .errors import SAMAudioError

SUBTYPES = {".wav": "FLOAT", ".flac": "PCM_24"}
BLOCK = 2**18  # samples read at a time
WAV_LIMIT = 2**32 - 2**16  # bytes; beyond, RF64, which is wav with long sizes


def read(path: str | Path, sample_rate: int) -> np.ndarray:
    """The file's sound, channels averaged, at `sample_rate`: (T,) float32."""
    return np.concatenate(list(blocks(path, sample_rate)))


def blocks(path: str | Path, sample_rate: int) -> Iterator[np.ndarray]:
    """The same in consecutive pieces, so that memory does not grow with the file."""
    path = existing(path)
    resampler, empty = None, True
    for block, rate in decoded(path):
        empty = empty and not len(block)
        mono = block.mean(axis=1)
        if rate == sample_rate:
            yield mono
            continue
        resampler = resampler or soxr.ResampleStream(
            rate, sample_rate, 1, dtype="float32", quality="VHQ"
        )
        yield resampler.resample_chunk(mono)
    if empty:
        raise SAMAudioError(f"{path} holds no samples")
    if resampler is not None:
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def resample(waves: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    """(k, T) float32 at `rate` -> the same at `sample_rate`."""
    if rate == sample_rate:
        return waves
    return soxr.resample(waves.T, rate, sample_rate, quality="VHQ").T


def existing(path: str | Path) -> Path:
    path = Path(path)
    if path.is_dir():
        raise SAMAudioError(f"{path} is a folder, not a file")
    if not path.is_file():
        raise SAMAudioError(f"there is no file {path}")
    if path.stat().st_size == 0:
        raise SAMAudioError(f"{path} is empty")
    return path


def length(path: str | Path, sample_rate: int) -> int | None:
    """Samples at `sample_rate` that the file's header promises; None where it does not say."""
    try:
        header = soundfile.info(existing(path))
    except soundfile.LibsndfileError:
        return None
    return math.floor(header.frames * sample_rate / header.samplerate + 0.5)  # as soxr rounds


def decoded(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """Pieces (T, channels) float32 at the file's own rate, and that rate."""
    try:
        file = soundfile.SoundFile(path)
    except soundfile.LibsndfileError as error:
        yield from decoded_container(path, error)
        return
    try:
        with file:
            for block in file.blocks(BLOCK, dtype="float32", always_2d=True):
                yield block, file.samplerate
    except soundfile.LibsndfileError as error:
        raise SAMAudioError(f"{path} is damaged: {error}") from None


def decoded_container(path: Path, reason: Exception) -> Iterator[tuple[np.ndarray, int]]:
    """What libsndfile cannot read (m4a, mp4, mov, ...), by PyAV."""
    try:
        import av
    except ImportError:
        raise SAMAudioError(
            f"cannot read {path} ({reason}): for m4a, mp4, mov and other containers, "
            "`pip install 'mlx-sam-audio[video]'`"
        ) from None
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.audio:
                raise SAMAudioError(f"{path} has no sound")
            stream = container.streams.audio[0]
            resampler = av.AudioResampler(format="fltp", rate=stream.rate)
            for frame in container.decode(stream):
                for part in resampler.resample(frame):
                    yield part.to_ndarray().T, stream.rate
            for part in resampler.resample(None):
                yield part.to_ndarray().T, stream.rate
    except av.FFmpegError as error:
        raise SAMAudioError(f"cannot read {path}: {error.strerror or error}") from None


def writable(path: str | Path, suffixes: Iterable[str] = SUBTYPES) -> Path:
    """`path`, if its name can be written to; a clear error before any work is done otherwise."""
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise SAMAudioError(f"cannot write {path}: the name must end in {' or '.join(suffixes)}")
    if path.is_dir():
        raise SAMAudioError(f"cannot write {path}: it is a folder")
    make_folder(path.parent)
    if not os.access(path.parent, os.W_OK):
        raise SAMAudioError(f"cannot write into the folder {path.parent}")
    return path


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SAMAudioError(f"cannot make the folder {folder}: {error.strerror}") from None


@contextlib.contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Another name to write to, which becomes `path` at the end of the body, or vanishes."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        raise SAMAudioError(f"cannot write {path}: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)


class Writer:
    """Writes a file block by block under another name; `close` gives it its own name.

    32-bit float wav or 24-bit flac. `notice` is a sentence if the sound passes full scale: a wav
    keeps such a peak; a flac cannot, so there the whole file is turned down until it fits. samples:
    about how many there will be. name: of the file in sentences, if not its own.
    """

    def __init__(
        self, path: str | Path, sample_rate: int, samples: int = 0, name: Path | None = None
    ):
        self.path, self.notice, self._peak = writable(path), None, 0.0
        self._name = name or self.path
        self._sample_rate = sample_rate
        self._part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        self._kind = "RF64" if 4 * samples > WAV_LIMIT else "WAV"
        self._file = self._guard(
            lambda: soundfile.SoundFile(
                self._part, "w", sample_rate, 1, subtype="FLOAT", format=self._kind
            )
        )

    def write(self, samples: np.ndarray) -> None:
        self._peak = max(self._peak, float(np.abs(samples).max(initial=0.0)))
        self._guard(lambda: self._file.write(samples))

    def close(self) -> None:
        """Finish the file and put it in place."""
        gain, flac = 1.0, self.path.suffix.lower() == ".flac"
        if self._peak > 1:
            decibels = 20 * np.log10(self._peak)
            self.notice = f"{self._name} peaks {decibels:.1f} dB above full scale"
            if flac:
                gain = 1 / self._peak
                self.notice += (
                    f"; flac cannot hold that, so it was turned down by {decibels:.1f} dB"
                )
        self._guard(self._file.close)
        if flac:
            self._guard(lambda: self._to_flac(gain))
        self._guard(lambda: os.replace(self._part, self.path))

    def discard(self) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)

    def _to_flac(self, gain: float) -> None:
        flac = self._part.with_suffix(".flac.part")
        try:
            with soundfile.SoundFile(
                flac, "w", self._sample_rate, 1, subtype="PCM_24", format="FLAC"
            ) as file:
                for block in soundfile.blocks(self._part, BLOCK, dtype="float32"):
                    file.write(gain * block)
            os.replace(flac, self._part)
        finally:
            flac.unlink(missing_ok=True)

    def _guard(self, action):
        try:
            return action()
        except (OSError, soundfile.LibsndfileError) as error:
            # libsndfile calls a full disk "System error."
            full = shutil.disk_usage(self.path.parent).free < 2**20
            self._part.unlink(missing_ok=True)
            reason = "the disk is full" if full else error
            raise SAMAudioError(f"cannot write {self._name}: {reason}") from None


def write(path: str | Path, samples: np.ndarray, sample_rate: int) -> str | None:
    """Write (T,) whole or not at all. Returns the notice of a peak above full scale, if any."""
    writer = Writer(path, sample_rate, len(samples))
    try:
        writer.write(samples)
        writer.close()
    except BaseException:  # Ctrl-C too must leave no half file
        writer.discard()
        raise
    return writer.notice
