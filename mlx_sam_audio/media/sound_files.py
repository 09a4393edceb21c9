"""Sound files, written whole or not at all."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from ..errors import SAMAudioError
from ..files import reason, whole, writable
from ..kinds import RATES
from . import encoding
from .containers import container


class Format(NamedTuple):
    """A kind of sound file."""

    kind: str  # its container, in small letters FFmpeg's, else libsndfile's
    bits: tuple[int, ...] = ()  # of a sample, the default first; none of a lossy format
    codec: str = ""  # of a lossy format
    rates: Sequence[int] = RATES  # Hz


AIFF = Format("AIFF", (24, 16, 32))
FORMATS = {
    ".wav": Format("WAV", (32, 24, 16)),
    ".flac": Format("FLAC", (24, 16), rates=encoding.RATES["flac"]),
    ".aiff": AIFF,
    ".aif": AIFF,
    ".mp3": Format("mp3", codec="libmp3lame", rates=encoding.RATES["libmp3lame"]),
    ".m4a": Format("ipod", codec="aac", rates=encoding.RATES["aac"]),
    ".ogg": Format("OGG", codec="VORBIS", rates=range(1000, 200_001)),  # libsndfile crashes beyond
}
SUBTYPES = {16: "PCM_16", 24: "PCM_24", 32: "FLOAT"}  # what libsndfile calls samples of such bits
WRITTEN = tuple(FORMATS)
LIMIT = 2**32 - 2**16  # bytes of a wav, beyond which it is RF64, with long sizes, and of an aiff
PIECE = 2**14  # samples encoded at a time; of many more libsndfile's Vorbis runs out of stack
VORBIS_QUALITY = 0.7  # of 1; some 220 kbit/s in stereo
ADD_PEAK_CHUNK, SET_VBR_QUALITY = 0x1050, 0x1300  # libsndfile's commands
NAMES = {"track": "tracknumber"}  # of tags, where soundfile has other ones than FFmpeg


def check(path: str | Path, sample_rate: int, bits: int | None = None) -> None:
    """Raises SAMAudioError where the format of that name cannot hold what is to be written."""
    path = Path(path)
    form = FORMATS[path.suffix.lower()]
    if bits is not None and bits not in form.bits:
        those = " or ".join(map(str, sorted(form.bits))) or "no number of"
        raise SAMAudioError(
            f"cannot write {path} of {bits} bits: {path.suffix[1:]} has {those} bits a sample"
        )
    encoding.check(path, form.rates, sample_rate)


class Writer:
    """Writes one sound file block by block.

    part: where it is written until it is complete (see `files`), path: the name it will have, whose
    suffix decides the format. samples: about how many there will be. bits: 16, 24 or, which is
    float, 32; 32 in a wav, 24 in flac and aiff unless given. tags: see `containers.tags`. After
    `close`, `notice` is a sentence if the sound passes full scale: floats keep such a peak; nothing
    else can, so there the whole file is turned down until it fits, and those that belong to it.
    """

    def __init__(
        self,
        part: Path,
        path: Path,
        sample_rate: int,
        samples: int = 0,
        channels: int = 1,
        bits: int | None = None,
        tags: Mapping[str, str] | None = None,
    ):
        self.notice, self.peak = None, 0.0
        self._part, self._path, self._sample_rate = part, path, sample_rate
        self._channels, self._samples, self._tags = channels, samples, tags or {}
        self._form = FORMATS.get(path.suffix.lower(), FORMATS[".wav"])
        self._bits = bits or next(iter(self._form.bits), None)
        self._codec = self._form.codec or SUBTYPES[self._bits]
        self._final = (self._form.kind, self._bits) == ("WAV", 32)
        if self._form is AIFF and 4 * samples * channels > LIMIT:
            raise SAMAudioError(f"cannot write {path}: an aiff has 4 GiB at most: take a flac")
        # anything else is made of a wav of floats when the peak is known
        self._file = self._guard(lambda: self._open(part, "WAV", "FLOAT", self._final))

    def write(self, samples: np.ndarray) -> None:
        """Append (t,), or (2, t) of two channels."""
        self.peak = max(self.peak, float(np.abs(samples).max(initial=0.0)))
        self._guard(lambda: self._file.write(samples.T))

    def close(self, peak: float = 0.0) -> None:
        """Finish the file. peak: the highest of all files that are turned down alike, if any is."""
        self._guard(self._file.close)
        gain, loudest = 1.0, max(peak, self.peak)
        if self.peak > 1:
            self.notice = f"{self._path} peaks {decibels(self.peak)} above full scale"
        if loudest > 1 and self._bits != 32:
            gain, kind = 1 / loudest, self._path.suffix[1:]
            if 32 in self._form.bits:
                kind += f" of {self._bits} bits"
            turned = f"turned down by {decibels(loudest)}"
            if self.peak > 1:
                self.notice += f"; {kind} cannot hold that, so it was {turned}"
            else:
                self.notice = f"{self._path} was {turned}, as what it belongs to"
        if not self._final:
            self._guard(lambda: self._encode(gain))

    def discard(self) -> None:
        self._file.close()

    def _encode(self, gain: float) -> None:
        pieces = soundfile.blocks(os.fsencode(self._part), PIECE, dtype="float32", always_2d=True)
        pieces = (gain * piece for piece in pieces)
        with whole(self._part) as (part,):
            if self._form.kind.islower():
                self._by_ffmpeg(part, pieces)
            else:
                with self._open(part, self._form.kind, self._codec) as file:
                    whole_numbers = self._bits in (16, 24)
                    for piece in integers(pieces, self._bits) if whole_numbers else pieces:
                        file.write(piece)

    def _by_ffmpeg(self, part: Path, pieces: Iterator[np.ndarray]) -> None:
        with (
            encoding.writing(self._path),
            open(part, "wb") as file,
            container(file, "w", format=self._form.kind) as new,
        ):
            new.metadata.update(self._tags)
            voice = encoding.voice(new, self._codec, self._sample_rate, self._channels)
            for packet in encoding.encoded(voice, (piece.T for piece in pieces)):
                new.mux(packet)

    def _open(self, part: Path, kind: str, codec: str, tagged: bool = True):
        """A libsndfile file; the same samples give the same bytes, whenever they are written;
        in an ogg all but a random serial number."""
        if kind == "WAV":
            floats = "WAVEX" if codec == "FLOAT" else kind
            kind = "RF64" if 4 * self._samples * self._channels > LIMIT else floats
        file = soundfile.SoundFile(
            os.fsencode(part), "w", self._sample_rate, self._channels, subtype=codec, format=kind
        )
        # what can only be told to libsndfile itself: no PEAK chunk, which has the time of writing
        library, ffi = soundfile._snd, soundfile._ffi
        library.sf_command(file._file, ADD_PEAK_CHUNK, ffi.NULL, 0)
        if codec == "VORBIS":
            quality = ffi.new("double*", VORBIS_QUALITY)
            library.sf_command(file._file, SET_VBR_QUALITY, quality, ffi.sizeof("double"))
        for name, text in self._tags.items() if tagged else ():
            setattr(file, NAMES.get(name, name), text)
        return file

    def _guard(self, action):
        try:
            return action()
        except (OSError, soundfile.LibsndfileError) as error:
            # libsndfile calls a full disk "System error."
            full = isinstance(error, soundfile.LibsndfileError) and disk_is_full(self._part.parent)
            raise SAMAudioError(
                f"cannot write {self._path}: {'the disk is full' if full else reason(error)}"
            ) from None


def integers(pieces: Iterator[np.ndarray], bits: int) -> Iterator[np.ndarray]:
    """The upper bits of 32, rounded. 16 of them get triangular noise of up to one step, the same in
    every file; what they hold stays as it is, silence too."""
    noise, scale = np.random.default_rng(0), 2.0 ** (bits - 1)
    for piece in pieces:
        steps = piece * scale
        if bits == 16:
            dither = noise.random(piece.shape) - noise.random(piece.shape)
            steps = np.where(steps == np.rint(steps), steps, steps + dither)
        yield np.clip(np.rint(steps), -scale, scale - 1).astype(np.int32) << (32 - bits)


def decibels(peak: float) -> str:
    return f"{20 * np.log10(peak):.1f} dB"


def disk_is_full(folder: Path) -> bool:
    try:
        usage = shutil.disk_usage(folder)
    except OSError:  # somebody removed it
        return False
    return 0 < usage.total and usage.free < 2**20  # /proc and its like have no room by nature


def write(path: str | Path, samples: np.ndarray, sample_rate: int) -> str | None:
    """Write (T,) or (2, T) whole or not at all. Returns the notice of a peak above full scale, if
    any."""
    (notice,) = write_all([(path, samples)], sample_rate)
    return notice


def write_all(
    sounds: Sequence[tuple[str | Path, np.ndarray]], sample_rate: int
) -> list[str | None]:
    """The same for several files, which appear together."""
    paths = [writable(path, WRITTEN) for path, _ in sounds]
    if len({os.path.realpath(path) for path in paths}) < len(paths):
        raise SAMAudioError(f"several sounds cannot all be {paths[0]}: give each another name")
    for path in paths:
        check(path, sample_rate)
    notices, peak = [], max(float(np.abs(samples).max(initial=0.0)) for _, samples in sounds)
    with whole(*paths) as parts:
        for part, path, (_, samples) in zip(parts, paths, sounds, strict=True):
            channels = len(np.atleast_2d(samples))
            writer = Writer(part, path, sample_rate, samples.shape[-1], channels)
            try:
                writer.write(samples)
                writer.close(peak)
            finally:
                writer.discard()
            notices.append(writer.notice)
    return notices
