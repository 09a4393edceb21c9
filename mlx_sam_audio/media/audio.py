"""Sound files: read any as mono at one rate, block by block; write one whole or not at all.

Every sample is the recording's: what is read is what FFmpeg decodes, to the sample. A file that
ends early or disagrees with its header is used as far as it goes, with a note; one that is damaged
before its end is refused, since what follows would lie at the wrong time.
"""

import contextlib
import hashlib
import itertools
import math
import os
import re
import shutil
import struct
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import soundfile
import soxr

from ..errors import SAMAudioError, note
from ..files import existing, reason, whole, writable
from ..kinds import RATES
from .containers import opened

SUBTYPES = {".wav": "FLOAT", ".flac": "PCM_24"}
BLOCK = 2**18  # samples read at a time
WAV_LIMIT = 2**32 - 2**16  # bytes; beyond, RF64, which is wav with long sizes
ADD_PEAK_CHUNK = 0x1050  # libsndfile's SFC_SET_ADD_PEAK_CHUNK
LOUDEST = 1000.0  # 60 dB above full scale
PLAIN = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")  # what libsndfile reads; FFmpeg all else
UNKNOWN = 2**62  # frames of a FLAC whose header does not tell
UNCOMPRESSED = (1, 3, 6, 7, 0xFFFE)  # formats of wav files
PIPED = 2**31 - 2**16  # bytes; programs that do not know how many write so many or more
SLACK = 0.1, 4096  # seconds and samples that encoders add or headers round away
# formats whose headers tell how long the sound is; for the others FFmpeg guesses
TELLING = {
    "mov",
    "matroska",
    "webm",
    "wav",
    "w64",
    "flac",
    "caf",
    "aiff",
    "asf",
    "tta",
    "wv",
    "ape",
}
LABELS = b"ID3", b"TAG", b"APE", b"LYR", b"Opus", b"\1vorbis", b"\3vorbis", b"\5vorbis"


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
        header = plain(existing(self._path))
        if header is not None:
            header.close()
            if header.format != "FLAC":
                return length(self._path, self._sample_rate)
        runs = itertools.groupby(decoded(existing(self._path)), key=lambda piece: piece[1])
        counts = [(rate, sum(len(block) for block, _ in run)) for rate, run in runs]
        return sum(resampled(count, rate, self._sample_rate) for rate, count in counts)

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


def resampled(samples: int, rate: int, sample_rate: int) -> int:
    """How many soxr makes of so many samples."""
    return math.floor(samples * sample_rate / rate + 0.5)


def plain(path: Path) -> soundfile.SoundFile | None:
    """The file, if it is an uncompressed one or a FLAC, for libsndfile."""
    with open(path, "rb") as file:
        start = file.read(12)
    if not start.startswith((b"RIFF", b"RIFX", b"RF64", b"FORM", b"fLaC")):
        return None
    try:
        file = soundfile.SoundFile(os.fsencode(path))
    except soundfile.LibsndfileError:
        return None
    # a wav written to a pipe may say that it holds nothing
    if file.subtype.startswith(PLAIN) and file.frames:
        if start.startswith(b"fLaC"):
            check_rate(path, file)
        return file
    file.close()
    return None


def check_rate(path: Path, file: soundfile.SoundFile) -> None:
    """A FLAC tells its rate twice: in its header, and in every frame, where FFmpeg reads it."""
    with opened(path) as container:
        frame = next(container.decode(audible(container, path)), None)
        if frame is not None and frame.sample_rate != file.samplerate:
            file.close()
            raise SAMAudioError(
                f"{path} is damaged: its header tells {file.samplerate} Hz, its sound "
                f"{frame.sample_rate} Hz"
            )


def decoded(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """Pieces (T, channels) float32 at the file's own rate, and that rate."""
    file = plain(path)
    for piece, rate in encoded(path) if file is None else uncompressed(path, file):
        if rate not in RATES:
            raise SAMAudioError(
                f"{path} has a sample rate of {rate} Hz: {RATES[0]} to {RATES[-1]} Hz are possible"
            )
        yield piece, rate


def uncompressed(path: Path, file: soundfile.SoundFile) -> Iterator[tuple[np.ndarray, int]]:
    done, rate = 0, file.samplerate
    with file:
        try:
            while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
                yield block, rate
                done += len(block)
        except soundfile.LibsndfileError as error:
            sound = reachable(path, done)
            whole = sum(len(piece) for piece, _ in encoded(path))
            if whole > sound + SLACK[1]:  # there is more behind what libsndfile cannot read
                raise SAMAudioError(
                    f"{path} is damaged after {sound / rate:.1f} s: {error}"
                ) from None
            yield from after(encoded(path), done)
            return
    if file.format == "FLAC" and packed(path) > done:  # more than its header tells libsndfile
        yield from after(encoded(path), done)
        return
    compare(path, done / rate, rate)


def packed(path: Path) -> int:
    """Samples in the frames of a FLAC, without decoding them."""
    with opened(path) as container:
        return sum(packet.duration or 0 for packet in container.demux(audible(container, path)))


def reachable(path: Path, done: int) -> int:
    """Samples that libsndfile reads before it gives up, `done` or more."""
    with (
        soundfile.SoundFile(os.fsencode(path)) as file,
        contextlib.suppress(soundfile.LibsndfileError),
    ):
        file.seek(done)
        while len(block := file.read(1024)):
            done += len(block)
    return done


def after(pieces: Iterator[tuple[np.ndarray, int]], skipped: int) -> Iterator:
    """The same without so many samples at the beginning."""
    for piece, rate in pieces:
        yield piece[skipped:], rate
        skipped = max(skipped - len(piece), 0)


def encoded(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """The same of what libsndfile cannot read (mp3, m4a, mp4, mov, ...), by PyAV."""
    with opened(path) as container:
        held, rate = [], 0
        for frame in frames(container, audible(container, path), path):
            piece = floats(frame)
            changed = held and (frame.sample_rate, piece.shape[1]) != (rate, held[0].shape[1])
            if changed or sum(map(len, held)) >= BLOCK:
                yield np.concatenate(held), rate
                held = []
            held, rate = [*held, piece], frame.sample_rate
        if held:
            yield np.concatenate(held), rate


def audible(container, path: Path):
    """The stream that is heard."""
    for stream in container.streams.audio:
        codec = stream.codec_context
        if codec is None or not (codec.sample_rate and codec.channels):
            raise SAMAudioError(f"{path} holds sound in a format that cannot be decoded")
        return stream
    raise SAMAudioError(f"{path} has no sound")


def frames(container, stream, path: Path) -> Iterator:
    """Decoded frames. Where the last of them is missing or broken, a note says so."""
    import av

    seconds, broken = 0.0, False
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            broken, packet = True, None
        try:
            decoded = stream.codec_context.decode(packet) if packet is None else packet.decode()
        except av.EOFError:
            decoded = []
        except av.FFmpegError:
            broken, decoded = broken or not is_label(packet), []
        if decoded and broken and packet is not None:
            raise SAMAudioError(f"{path} is damaged after {seconds:.1f} s")
        for frame in decoded:
            seconds += frame.samples / frame.sample_rate
            yield frame
        if packet is None:
            break
    if seconds:
        compare(path, seconds, frame.sample_rate, broken)


def is_label(packet) -> bool:
    """Titles and headers of files that were joined lie among the sound."""
    return packet is not None and bytes(packet)[:7].startswith(LABELS)


def floats(frame) -> np.ndarray:
    """A frame's samples, (T, channels) float32, full scale 1."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype == np.uint8:
        samples = samples.astype(np.float32) / 128 - 1
    elif np.issubdtype(samples.dtype, np.integer):
        samples = samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
    return samples.astype(np.float32, copy=False).T


def compare(path: Path, seconds: float, rate: int, broken: bool = False) -> None:
    """Say so where a file does not hold as much sound as its header promises."""
    promise = promised(path)
    if promise and abs(seconds - promise) > max(SLACK[0], SLACK[1] / rate):
        verb = "ends after" if seconds < promise else "goes on for"
        note(f"{path} {verb} {seconds:.1f} s, where its header promises {promise:.1f} s")
    elif broken or not is_complete(path):
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
            return sum(float(n) * s for n, s in zip(clock.split(":"), (3600, 60, 1), strict=True))
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


def is_complete(path: Path) -> bool:
    """Does the last page of an Ogg file say that it is the last? Other files have no such mark."""
    with open(path, "rb") as file:
        if file.read(4) != b"OggS":
            return True
        file.seek(max(os.path.getsize(path) - 2**17, 0))
        tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    sizes = page[27 : 27 + page[26]] if len(page) > 26 else b""
    return len(page) > 26 and page[5] & 4 > 0 and len(page) >= 27 + page[26] + sum(sizes)


def has_count(path: Path) -> bool:
    """Does the first frame of an mp3 say how many there are (Xing, Info, VBRI)?"""
    with open(path, "rb") as file:
        start = file.read(10)
        size = sum(byte << 7 * (3 - i) for i, byte in enumerate(start[6:10]))
        file.seek(10 + size if start[:3] == b"ID3" else 0)
        head = file.read(2048)
    return any(mark in head for mark in (b"Xing", b"Info", b"VBRI"))


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
    paths = [writable(path, SUBTYPES) for path, _ in sounds]
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
