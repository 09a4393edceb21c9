"""Sound files decoded: plain ones by libsndfile, all else by FFmpeg."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from ..errors import SAMAudioError
from ..kinds import RATES
from . import ogg
from .containers import audible, opened
from .headers import SLACK, compare

BLOCK = 2**18  # samples read at a time
PLAIN = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")  # what libsndfile reads; FFmpeg all else
LABELS = b"ID3", b"TAG", b"APE", b"LYR", b"Opus", b"\1vorbis", b"\3vorbis", b"\5vorbis"


Piece = tuple[np.ndarray, int, tuple[str, ...]]  # (T, channels) float32, rate, channels' names


def decoded(path: Path) -> Iterator[Piece]:
    """Pieces (T, channels) float32 at the file's own rate, that rate, and what FFmpeg calls the
    channels, if there are more than two."""
    file = plain(path)
    for piece, rate, names in encoded(path) if file is None else uncompressed(path, file):
        if rate not in RATES:
            raise SAMAudioError(
                f"{path} has a sample rate of {rate} Hz: {RATES[0]} to {RATES[-1]} Hz are possible"
            )
        yield piece, rate, names


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


def uncompressed(path: Path, file: soundfile.SoundFile) -> Iterator[Piece]:
    done, rate, names = 0, file.samplerate, ()
    if file.channels > 2:
        with contextlib.suppress(SAMAudioError), opened(path) as container:
            names = called(audible(container, path).codec_context.layout)
    with file:
        try:
            while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
                yield block, rate, names
                done += len(block)
        except soundfile.LibsndfileError as error:
            sound = reachable(path, done)
            whole = sum(len(piece) for piece, *_ in encoded(path))
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


def after(pieces: Iterator[Piece], skipped: int) -> Iterator[Piece]:
    """The same without so many samples at the beginning."""
    for piece, *more in pieces:
        yield piece[skipped:], *more
        skipped = max(skipped - len(piece), 0)


def encoded(path: Path) -> Iterator[Piece]:
    """The same of what libsndfile cannot read (mp3, m4a, mp4, mov, ...), by PyAV."""
    with opened(path) as container:
        held, last = [], None
        for frame in frames(container, audible(container, path), path):
            if held and (kind(frame) != kind(last) or sum(map(len, held)) >= BLOCK):
                yield np.concatenate(held), last.sample_rate, called(last.layout)
                held = []
            held, last = [*held, floats(frame)], frame
        if held:
            yield np.concatenate(held), last.sample_rate, called(last.layout)


def kind(frame) -> tuple[int, str]:
    """What is the same in all of a file, unless several were joined."""
    return frame.sample_rate, frame.layout.name


def called(layout) -> tuple[str, ...]:
    """FL, FR, FC, LFE, ...; NONE where the file does not tell."""
    return tuple(channel.name for channel in layout.channels)


def frames(container, stream, path: Path) -> Iterator:
    """Decoded frames. Where the last of them is missing or broken, a note says so."""
    import av

    ends = container.format.name != "ogg" or ogg.check(path, stream.time_base)
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
        compare(path, seconds, frame.sample_rate, broken or not ends)


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
