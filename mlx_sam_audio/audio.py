"""Sound files: read any as mono at one rate, block by block; write one whole or not at all."""

import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import soundfile
import soxr

from .containers import opened
from .errors import SAMAudioError
from .files import existing, reason, whole, writable

SUBTYPES = {".wav": "FLOAT", ".flac": "PCM_24"}
BLOCK = 2**18  # samples read at a time
WAV_LIMIT = 2**32 - 2**16  # bytes; beyond, RF64, which is wav with long sizes
ADD_PEAK_CHUNK = 0x1050  # libsndfile's SFC_SET_ADD_PEAK_CHUNK


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
    import av

    with opened(path) as container:
        if not container.streams.audio:
            raise SAMAudioError(f"{path} has no sound")
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="fltp", rate=stream.rate)
        for frame in container.decode(stream):
            for part in resampler.resample(frame):
                yield part.to_ndarray().T, stream.rate
        for part in resampler.resample(None):
            yield part.to_ndarray().T, stream.rate


class Writer:
    """Writes one sound file block by block: 32-bit float wav or 24-bit flac, mono.

    part: where it is written until it is complete (see `files`), path: the name it will have, whose
    suffix decides the format. samples: about how many there will be. After `close`, `notice` is a
    sentence if the sound passes full scale: a wav keeps such a peak; a flac cannot, so there the
    whole file is turned down until it fits.
    """

    def __init__(self, part: Path, path: Path, sample_rate: int, samples: int = 0):
        self.notice, self.peak = None, 0.0
        self._part, self._path, self._sample_rate = part, path, sample_rate
        kind = "RF64" if 4 * samples > WAV_LIMIT else "WAVEX"
        self._file = self._guard(lambda: sound_file(part, sample_rate, kind, "FLOAT"))

    def write(self, samples: np.ndarray) -> None:
        self.peak = max(self.peak, float(np.abs(samples).max(initial=0.0)))
        self._guard(lambda: self._file.write(samples))

    def close(self) -> None:
        """Finish the file."""
        self._guard(self._file.close)
        gain, flac = 1.0, self._path.suffix.lower() == ".flac"
        if self.peak > 1:
            decibels = 20 * np.log10(self.peak)
            self.notice = f"{self._path} peaks {decibels:.1f} dB above full scale"
            if flac:
                gain = 1 / self.peak
                self.notice += (
                    f"; flac cannot hold that, so it was turned down by {decibels:.1f} dB"
                )
        if flac:
            self._guard(lambda: self._to_flac(gain))

    def discard(self) -> None:
        self._file.close()

    def _to_flac(self, gain: float) -> None:
        with (
            whole(self._part) as (flac,),
            sound_file(flac, self._sample_rate, "FLAC", "PCM_24") as file,
        ):
            for block in soundfile.blocks(self._part, BLOCK, dtype="float32"):
                file.write(gain * block)

    def _guard(self, action):
        try:
            return action()
        except (OSError, soundfile.LibsndfileError) as error:
            # libsndfile calls a full disk "System error."
            full = isinstance(error, soundfile.LibsndfileError) and disk_is_full(self._part.parent)
            raise SAMAudioError(
                f"cannot write {self._path}: {'the disk is full' if full else reason(error)}"
            ) from None


def disk_is_full(folder: Path) -> bool:
    usage = shutil.disk_usage(folder)
    return 0 < usage.total and usage.free < 2**20  # /proc and its like have no room by nature


def sound_file(path: Path, sample_rate: int, kind: str, subtype: str) -> soundfile.SoundFile:
    """A mono file to write; the same samples give the same bytes, whenever they are written."""
    file = soundfile.SoundFile(path, "w", sample_rate, 1, subtype=subtype, format=kind)
    # the PEAK chunk, which holds the time of writing, can only be left out through libsndfile
    soundfile._snd.sf_command(file._file, ADD_PEAK_CHUNK, soundfile._ffi.NULL, 0)
    return file


def write(path: str | Path, samples: np.ndarray, sample_rate: int) -> str | None:
    """Write (T,) whole or not at all. Returns the notice of a peak above full scale, if any."""
    (notice,) = write_all({path: samples}, sample_rate)
    return notice


def write_all(sounds: Mapping[str | Path, np.ndarray], sample_rate: int) -> list[str | None]:
    """The same for several files, which appear together."""
    paths = [writable(path, SUBTYPES) for path in sounds]
    notices = []
    with whole(*paths) as parts:
        for part, path, samples in zip(parts, paths, sounds.values(), strict=True):
            writer = Writer(part, path, sample_rate, len(samples))
            try:
                writer.write(samples)
                writer.close()
            finally:
                writer.discard()
            notices.append(writer.notice)
    return notices
