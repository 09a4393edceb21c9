"""Videos as prompts and as results: read their frames, hide what sounds, put new sound in.

The model sees a video in which the thing that makes the sound is black, as the reference's
`SAMAudioProcessor.mask_videos` makes it: video * (mask == 0). A mask here says where the thing is,
and the rest happens inside. F frames, H height, W width, N latent frames.
"""

import contextlib
import heapq
import itertools
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path

import numpy as np

from . import frames as selection
from .audio import existing, make_folder, writable
from .errors import SAMAudioError

WRITTEN = {  # suffix: container, codec of the sound
    ".mp4": ("mp4", "aac"),
    ".m4v": ("mp4", "aac"),
    ".mov": ("mov", "pcm_s24le"),
    ".mkv": ("matroska", "flac"),
}
PIECE = 2**15  # samples of sound encoded at a time
WHITE = 128  # from this level on, a pixel of a mask in a file is marked: codecs blur black


@dataclass(frozen=True, eq=False)
class MaskedVideo:
    """A video, and where in it the thing is whose sound is wanted.

    frames: a file, or uint8 (F, 3, H, W), which are spread evenly over the audio. mask: bool or
    uint8 (F or 1, H, W), not zero where the thing is; or a picture or video that is white there; or
    a box (x0, y0, x1, y1) of pixels from the top left corner, without column x1 and row y1; or None
    if the thing is black in the frames already. start: the second of a file at which the audio
    starts. Raises SAMAudioError for what does not fit; what is in files is checked when they are
    read.
    """

    frames: str | Path | np.ndarray
    mask: str | Path | np.ndarray | tuple[int, int, int, int] | None = None
    start: float = 0.0

    def __post_init__(self):
        frames, mask = self.frames, self.mask
        if isinstance(mask, np.ndarray):
            if mask.ndim != 3 or mask.dtype not in (np.bool_, np.uint8):
                raise SAMAudioError(
                    f"a mask must be bool or uint8 (frames or 1, height, width), not {mask.dtype} "
                    f"{mask.shape}"
                )
            if not mask.any():
                raise SAMAudioError("the mask is empty: it marks no pixel")
        elif not isinstance(mask, (str, Path, type(None))):
            check_box(mask)
        if isinstance(frames, np.ndarray):
            if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != np.uint8:
                raise SAMAudioError(
                    f"frames must be uint8 (frames, 3, height, width), not {frames.dtype} "
                    f"{frames.shape}"
                )
            if frames.size == 0:
                raise SAMAudioError("the video holds no frames")
            if not isinstance(mask, (str, Path)):
                hide(frames[0], mask[0] if isinstance(mask, np.ndarray) else mask)
        elif not isinstance(frames, (str, Path)):
            raise SAMAudioError(f"frames are a file or an array, not {type(frames).__name__}")


def aligned(video: MaskedVideo, sound: object) -> MaskedVideo:
    """The video, with the start of its own sound if `sound`, a file, is in the same file."""
    both = isinstance(sound, (str, Path)) and isinstance(video.frames, (str, Path))
    if not both or Path(sound).resolve() != Path(video.frames).resolve():
        return video
    return replace(video, start=video.start + sound_start(sound))


class Features:
    """What `encoder`, for pictures of `size`, makes of the frames shown at `times` (N,) seconds:
    rows (N, D) float32, encoded as far as somebody asked for them.

    Frames are read, masked and encoded batch by batch, each once; the rows lie in a file without a
    name, so that memory does not grow with the video.
    """

    def __init__(self, encoder, size: int, video: MaskedVideo, times: np.ndarray):
        self._pieces, self._done = pieces(encoder, size, video, times), 0
        self._file, self._width, self._length = tempfile.TemporaryFile(), 0, len(times)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, cut: slice) -> np.ndarray:
        start, stop, _ = cut.indices(len(self))
        while self._done < stop:
            piece = next(self._pieces).astype(np.float32)
            self._width = piece.shape[1]
            self._keep(piece.tobytes())
            self._done += len(piece)
        if self._done == len(self):
            next(self._pieces, None)  # what is left to check of the mask
        self._file.seek(4 * self._width * start)
        rows = self._file.read(4 * self._width * (stop - start))
        return np.frombuffer(rows, np.float32).reshape(stop - start, self._width)

    def _keep(self, rows: bytes) -> None:
        try:
            self._file.seek(0, os.SEEK_END)
            self._file.write(rows)
            self._file.flush()
        except OSError as error:
            raise SAMAudioError(
                f"cannot keep the video's features in {tempfile.gettempdir()}: {error.strerror}"
            ) from None


def pieces(encoder, size: int, video: MaskedVideo, times: np.ndarray) -> Iterator[np.ndarray]:
    """Consecutive rows of `Features`."""
    counts = []

    def needed() -> Iterator[np.ndarray]:
        for frame, count in matched(video, times):
            counts.append(count)
            yield frame

    for vectors in selection.encode(encoder, selection.batches(needed(), size)):
        yield np.repeat(vectors, counts, axis=0)
        counts.clear()


def matched(video: MaskedVideo, times: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """The masked frames (3, H, W) uint8 that `times` (N,), ascending, need; and how many need each.

    The counts sum to N. The mask's frames go with the video's one to one.
    """
    if isinstance(video.frames, np.ndarray):
        chosen = selection.spread(len(video.frames), len(times))
        shown = zip(video.frames, np.bincount(chosen, minlength=len(video.frames)), strict=True)
    else:
        shown = counted(decoded(video.frames), times + video.start)
    masks, endless = each_mask(video.mask)
    missing, marked, left = object(), False, len(times)
    for frame, count in shown:
        mask = next(masks, missing)
        if mask is missing:
            raise SAMAudioError("the mask has fewer frames than the video")
        if count:
            marked = marked or not isinstance(mask, np.ndarray) or bool(mask.any())
            yield hide(frame if isinstance(frame, np.ndarray) else rgb(frame), mask), int(count)
        left -= count
        if not left and endless:
            break
    if not endless and next(masks, missing) is not missing:
        raise SAMAudioError("the mask has more frames than the video")
    if not marked:
        raise SAMAudioError("the mask is empty: it marks no pixel of the frames that are used")


def counted(timed: Iterable[tuple[float, object]], times: np.ndarray) -> Iterator:
    """`frames.nearest` for frames that come one by one with their times: every frame, and to how
    many of `times` (N,), ascending, it is the nearest."""
    done = 0
    for (time, frame), (after, _) in itertools.pairwise(itertools.chain(timed, [(math.inf, None)])):
        upto = max(done, int(np.searchsorted(times, (time + after) / 2, side="right")))
        yield frame, upto - done
        done = upto


def each_mask(mask) -> tuple[Iterator, bool]:
    """The mask of every frame, (H, W) bool, a box or None; and whether it is one for all frames."""
    if mask is None or isinstance(mask, tuple):
        return itertools.repeat(mask), True
    if isinstance(mask, np.ndarray):
        rows = (row != 0 for row in mask)
    else:
        rows = (rgb(frame).max(axis=0) >= WHITE for _, frame in decoded(mask))
    first = list(itertools.islice(rows, 2))
    if len(first) == 1:
        return itertools.repeat(first[0]), True
    return itertools.chain(first, rows), False


def hide(frame: np.ndarray, mask) -> np.ndarray:
    """The frame (3, H, W) with zeros where the thing is."""
    if mask is None:
        return frame
    height, width = frame.shape[1:]
    if isinstance(mask, tuple):
        x0, y0, x1, y1 = mask
        if x1 > width or y1 > height:
            raise SAMAudioError(
                f"the box {mask} does not lie inside the frame, which is {width} x {height} pixels"
            )
        mask = np.zeros((height, width), bool)
        mask[y0:y1, x0:x1] = True
    if mask.shape != (height, width):
        raise SAMAudioError(
            f"the mask is {mask.shape[1]} x {mask.shape[0]} pixels, the frame {width} x {height}"
        )
    return np.where(mask, np.uint8(0), frame)


def check_box(box) -> None:
    whole = isinstance(box, tuple) and len(box) == 4 and all(isinstance(x, Integral) for x in box)
    if not whole or not (0 <= box[0] < box[2] and 0 <= box[1] < box[3]):
        raise SAMAudioError(
            f"a box is (x0, y0, x1, y1) in whole pixels, with 0 <= x0 < x1 and 0 <= y0 < y1, not "
            f"{box}"
        )


@contextlib.contextmanager
def reading(path: str | Path):
    try:
        import av
    except ImportError:
        raise SAMAudioError("videos need PyAV: `pip install 'mlx-sam-audio[video]'`") from None
    try:
        yield av
    except av.FFmpegError as error:
        raise SAMAudioError(f"cannot read {path}: {error.strerror}") from None


@contextlib.contextmanager
def opened(path: str | Path):
    """A PyAV container to read from."""
    with reading(path) as av, av.open(str(existing(path))) as container:
        yield container


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


def sketch(axes, title: str, frame: np.ndarray) -> None:
    """A frame under a grid of labelled pixels, from which a box can be read."""
    axes.imshow(frame.transpose(1, 2, 0), interpolation="nearest")
    axes.locator_params(nbins=8, steps=[1, 2, 5, 10], integer=True)
    axes.tick_params(labelsize=6)
    axes.grid(color="white", alpha=0.4, linewidth=0.5)
    axes.set_title(title, loc="left", fontsize=8)


def figure(width: float, height: float):
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SAMAudioError(
            "pictures need matplotlib: `pip install 'mlx-sam-audio[plot]'`"
        ) from None
    return Figure(figsize=(width, height), layout="constrained")


def save(picture, path: str | Path) -> None:
    make_folder(Path(path).parent)
    try:
        picture.savefig(path, dpi=150, format="png")
    except OSError as error:
        raise SAMAudioError(f"cannot write {path}: {error.strerror}") from None


def contact_sheet(path: str | Path, output: str | Path, columns: int = 3, rows: int = 3) -> None:
    """Write a PNG of frames from the whole video, with times and pixel coordinates."""
    count = columns * rows
    step = duration(path) / count
    shots = [frame_at(path, (i + 0.5) * step) for i in range(count)]
    height, width = shots[0][1].shape[1:]
    picture = figure(4 * columns, 4 * rows * height / width + 0.3 * rows)
    for axes, (time, frame) in zip(picture.subplots(rows, columns).flat, shots, strict=True):
        sketch(axes, f"{time:.2f} s", frame)
    save(picture, output)


def preview(video: MaskedVideo, output: str | Path, seconds: float = 0.0) -> None:
    """Write a PNG of the frame at that time, in which all but the thing is dimmed."""
    times = np.array([seconds])
    frame, _ = next(matched(MaskedVideo(video.frames), times))
    hidden, _ = next(matched(video, times))
    shown = np.where((hidden != frame).any(axis=0), frame, frame // 3)
    picture = figure(8, 8 * frame.shape[1] / frame.shape[2] + 0.3)
    sketch(picture.subplots(), f"{seconds:.2f} s", shown)
    save(picture, output)


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
    silence = round(sound_start(source) * sample_rate)
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    container, codec = WRITTEN[output.suffix.lower()]
    try:
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
            os.replace(part, output)
    finally:
        part.unlink(missing_ok=True)


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
