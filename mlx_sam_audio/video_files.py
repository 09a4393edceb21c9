"""Video files, through PyAV: their frames (3, H, W) out of them, new sound into them."""

import contextlib
import heapq
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from .containers import opened, reading
from .errors import SAMAudioError
from .files import existing, whole, writable

WRITTEN = {  # suffix: container, codec of the sound
    ".mp4": ("mp4", "aac"),
    ".m4v": ("mp4", "aac"),
    ".mov": ("mov", "pcm_s24le"),
    ".mkv": ("matroska", "flac"),
}
PIECE = 2**15  # samples of sound encoded at a time


def pictures(container, path: str | Path):
    """The container's video stream; the cover of an album is none."""
    from av.stream import Disposition

    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            stream.thread_type = "AUTO"
            return stream
    raise SAMAudioError(f"{path} has no video")


def beginning(container) -> float:
    """Seconds on the file's clock at which it starts; some count an encoder's delay backwards."""
    return max(container.start_time or 0, 0) / 1e6


def sound_start(path: str | Path) -> float:
    """Seconds from a file's beginning to its sound's first sample; 0 if it has no sound."""
    with opened(path) as container:
        # decoded, since decoders drop the samples of the encoder's delay
        for frame in container.decode(audio=0) if container.streams.audio else ():
            if frame.time is not None:
                return frame.time - beginning(container)
    return 0.0


def decoded(path: str | Path, start: float = 0.0) -> Iterator:
    """Seconds from the file's beginning, ascending, and frames, not yet converted.

    start: where to begin; the first frame is then an earlier one.
    """
    empty = True
    with opened(path) as container:
        stream, zero = pictures(container, path), beginning(container)
        if start > 0:
            container.seek(int((zero + start) * 1e6))
        for frame in container.decode(stream):
            if frame.time is not None:
                empty = False
                yield frame.time - zero, frame
    if empty:
        raise SAMAudioError(f"{path} holds no frames")


def rgb(frame) -> np.ndarray:
    """A decoded frame upright, in red, green and blue, uint8 (3, H, W). Wider ranges are scaled to
    8 bits, without tone mapping."""
    return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)).transpose(2, 0, 1)


def frame_at(path: str | Path, seconds: float) -> tuple[float, np.ndarray]:
    """The frame that is shown at that time, (3, H, W), and since when."""
    shown = None
    for time, frame in decoded(path, start=seconds):
        if shown is not None and time > seconds:
            break
        shown = time, frame
    if shown is None:
        raise SAMAudioError(f"{path} shows nothing at {seconds:g} s")
    return shown[0], rgb(shown[1])


def duration(path: str | Path) -> float:
    """Seconds, as the file's header says."""
    with opened(path) as container:
        pictures(container, path)
        return (container.duration or 0) / 1e6


def remux(
    source: str | Path,
    sound: np.ndarray | Iterable[np.ndarray],
    sample_rate: int,
    output: str | Path,
) -> None:
    """Write the pictures of `source`, copied as they are, with `sound` in place of its own.

    sound: mono samples (T,), whole or in consecutive pieces, the first one heard where the sound of
    `source` starts. AAC in .mp4 and .m4v, else lossless, 24 bits. What else `source` holds, such as
    subtitles, is left out. Nothing has the name of `output` before all is written. Raises
    SAMAudioError.
    """
    output = writable(output, WRITTEN)
    if output.exists() and output.samefile(existing(source)):
        raise SAMAudioError(f"{output} is the video itself: choose another name")
    with whole(output) as (part,):
        write(source, sound, sample_rate, part, output)


def write(
    source: str | Path,
    sound: np.ndarray | Iterable[np.ndarray],
    sample_rate: int,
    part: Path,
    output: Path,
) -> None:
    """The same into `part`, for a file that will be called `output`."""
    silence = round(sound_start(source) * sample_rate)
    container, codec = WRITTEN[output.suffix.lower()]
    with opened(source) as old, writing(output) as av:
        stream = pictures(old, source)
        with av.open(str(part), "w", format=container) as new:
            copy = copied(new, stream, output)
            voice = new.add_stream(codec, rate=sample_rate, layout="mono")
            voice.codec_context.format = "fltp" if codec == "aac" else "s32"
            voices = encoded(voice, delayed(sound, silence))
            copies = shifted(old, stream, copy, beginning(old), source)
            # in the order of time, or the muxer would have to keep what comes too early
            for packet in heapq.merge(copies, voices, key=lambda p: p.dts * p.time_base):
                new.mux(packet)


@contextlib.contextmanager
def writing(path: Path):
    import av

    try:
        yield av
    except (OSError, av.FFmpegError) as error:
        raise SAMAudioError(f"cannot write {path}: {error.strerror or error}") from None


def copied(container, stream, output: Path):
    """A stream for the packets of `stream` as they are."""
    try:
        return container.add_stream_from_template(stream, opaque=True)
    except ValueError:
        raise SAMAudioError(
            f"{output.suffix} cannot hold {stream.codec_context.name} video: try .mkv"
        ) from None


def shifted(container, stream, copy, seconds: float, path: str | Path) -> Iterator:
    """The packets of `stream`, for the stream `copy`, so much earlier."""
    with reading(path):
        for packet in container.demux(stream):
            if packet.dts is None:  # the mark of the end
                continue
            ticks = round(seconds / packet.time_base)
            packet.dts -= ticks
            packet.pts = None if packet.pts is None else packet.pts - ticks
            packet.stream = copy
            yield packet


def delayed(sound: np.ndarray | Iterable[np.ndarray], samples: int) -> Iterator[np.ndarray]:
    """The sound in short pieces (T,) after so many samples of silence, or without its first ones.

    Silence, since players do not agree on sound that starts after the pictures.
    """
    blocks = [sound] if isinstance(sound, np.ndarray) else sound
    for block in itertools.chain([np.zeros(max(samples, 0), np.float32)], blocks):
        block, samples = block[max(-samples, 0) :], min(samples + len(block), 0)
        yield from (block[i : i + PIECE] for i in range(0, len(block), PIECE))


def encoded(stream, blocks: Iterator[np.ndarray]) -> Iterator:
    """Packets of mono blocks (T,) from time 0 on."""
    from fractions import Fraction

    import av

    position = 0
    for block in blocks:
        frame = av.AudioFrame.from_ndarray(block[None].astype(np.float32), "fltp", "mono")
        frame.rate, frame.time_base = stream.rate, Fraction(1, stream.rate)
        frame.pts = position
        position += len(block)
        yield from stream.encode(frame)
    yield from stream.encode(None)
