"""Sound files, written whole or not at all."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from ..errors import SAMAudioError
from ..files import reason, whole, writable
from .decoding import BLOCK

WRITTEN = (".wav", ".flac")
WAV_LIMIT = 2**32 - 2**16  # bytes; beyond, RF64, which is wav with long sizes
ADD_PEAK_CHUNK = 0x1050  # libsndfile's SFC_SET_ADD_PEAK_CHUNK


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
            for block in soundfile.blocks(os.fsencode(self._part), BLOCK, dtype="float32"):
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
    file = soundfile.SoundFile(os.fsencode(path), "w", sample_rate, 1, subtype=subtype, format=kind)
    # the PEAK chunk, which holds the time of writing, can only be left out through libsndfile
    soundfile._snd.sf_command(file._file, ADD_PEAK_CHUNK, soundfile._ffi.NULL, 0)
    return file


def write(path: str | Path, samples: np.ndarray, sample_rate: int) -> str | None:
    """Write (T,) whole or not at all. Returns the notice of a peak above full scale, if any."""
    (notice,) = write_all([(path, samples)], sample_rate)
    return notice


def write_all(
    sounds: Sequence[tuple[str | Path, np.ndarray]], sample_rate: int
) -> list[str | None]:
    """The same for several files, which appear together."""
    paths = [writable(path, WRITTEN) for path, _ in sounds]
    if len({os.path.realpath(path) for path in paths}) < len(paths):
        raise SAMAudioError(f"target and residual cannot both be {paths[0]}")
    notices = []
    with whole(*paths) as parts:
        for part, path, (_, samples) in zip(parts, paths, sounds, strict=True):
            writer = Writer(part, path, sample_rate, len(samples))
            try:
                writer.write(samples)
                writer.close()
            finally:
                writer.discard()
            notices.append(writer.notice)
    return notices
