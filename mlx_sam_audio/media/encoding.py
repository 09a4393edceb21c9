"""Sound encoded by FFmpeg, through PyAV, for files of sound and for videos."""

import contextlib
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..errors import SAMAudioError
from ..files import reason

LAYOUTS = {1: "mono", 2: "stereo"}
SAMPLES = {"aac": "fltp", "libmp3lame": "fltp"}  # in which codecs take them, if not as s32
MP3_RATES = (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
RATES = {"libmp3lame": MP3_RATES, "aac": (*MP3_RATES, 64_000, 88_200, 96_000)}  # Hz
RATES["flac"] = range(1, 655_351)
AAC_RATE = {1: 192_000, 2: 256_000}  # bits per second of so many channels
AAC_MOST = 6  # bits per sample
VBR = {"flags": "+qscale", "global_quality": "0"}  # LAME's best of variable rate, V0


def check(path: Path, rates: range | tuple[int, ...], sample_rate: int) -> None:
    """Raises SAMAudioError where a format has no such rate."""
    if sample_rate in rates:
        return
    those = f"{rates[0]} to {rates[-1]}" if isinstance(rates, range) else ", ".join(map(str, rates))
    raise SAMAudioError(
        f"cannot write {path}: {path.suffix[1:]} holds sound of {those} Hz, not {sample_rate} Hz"
    )


def voice(new, codec: str, sample_rate: int, channels: int, least: int = 0):
    """A stream for sound in the container `new`. least: bits per second of AAC."""
    more = {"options": VBR} if codec == "libmp3lame" else {}
    if codec == "aac":
        most = AAC_MOST * sample_rate * channels
        more = {"bit_rate": min(max(AAC_RATE[channels], least), most)}
    stream = new.add_stream(codec, rate=sample_rate, layout=LAYOUTS[channels], **more)
    stream.codec_context.format = SAMPLES.get(codec, "s32")
    return stream


def encoded(stream, blocks: Iterable[np.ndarray]) -> Iterator:
    """Packets of blocks (T,) or (2, T) from time 0 on."""
    import av

    position = 0
    for block in blocks:
        planes = np.ascontiguousarray(np.atleast_2d(block), np.float32)
        frame = av.AudioFrame.from_ndarray(planes, "fltp", LAYOUTS[len(planes)])
        frame.rate, frame.time_base = stream.rate, Fraction(1, stream.rate)
        frame.pts = position
        position += planes.shape[1]
        yield from stream.encode(frame)
    yield from stream.encode(None)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """PyAV, whose errors are about `path`."""
    import av

    try:
        yield
    except (OSError, av.FFmpegError) as error:
        first = error.__context__  # of which PyAV complains once more when it closes the file
        why = reason(first if isinstance(first, OSError) else error)
        raise SAMAudioError(f"cannot write {path}: {why}") from None
