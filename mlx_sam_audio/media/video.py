"""Videos as prompts: which of their frames the model sees, and what is hidden in them.

The model sees a video in which the thing that makes the sound is black, as the reference's
`SAMAudioProcessor.mask_videos` makes it: video * (mask == 0). A mask here says where the thing is,
and the rest happens inside. F frames, H height, W width, N latent frames.
"""

import itertools
import math
import os
import reprlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from numbers import Integral, Real

import numpy as np

from ..errors import SAMAudioError, check_finite
from ..files import existing
from . import frames as selection
from .video_files import decoded, rgb, sound_start

WHITE = 128  # from this level on, a pixel of a mask in a file is marked: codecs blur black


@dataclass(frozen=True, eq=False)
class MaskedVideo:
    """A video, and where in it the thing is whose sound is wanted.

    frames: a file, or uint8 (F, 3, H, W), which are spread evenly over the audio. mask: bool or
    uint8 (F or 1, H, W), not zero where the thing is; or a picture or video that is white there; or
    a box (x0, y0, x1, y1) of pixels from the top left corner, without column x1 and row y1; or None
    if the thing is black in the frames already. start: the second of a file at which the audio
    starts, negative if it starts before the file. Raises SAMAudioError for what does not fit; what
    is in files is checked when they are read.
    """

    frames: str | os.PathLike | np.ndarray
    mask: str | os.PathLike | np.ndarray | tuple[int, int, int, int] | None = None
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
        elif not is_file(mask) and mask is not None:
            check_box(mask)
        if isinstance(frames, np.ndarray):
            if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != np.uint8:
                raise SAMAudioError(
                    f"frames must be uint8 (frames, 3, height, width), not {frames.dtype} "
                    f"{frames.shape}"
                )
            if frames.size == 0:
                raise SAMAudioError("the video holds no frames")
            if not is_file(mask):
                hide(frames[0], mask[0] if isinstance(mask, np.ndarray) else mask)
        elif not is_file(frames):
            raise SAMAudioError(f"frames are a file or a numpy array, not {type(frames).__name__}")
        if not is_finite(self.start):
            raise SAMAudioError(
                f"start is the second of the file at which the audio starts, not "
                f"{short(self.start)}"
            )


def is_file(value: object) -> bool:
    return isinstance(value, (str, os.PathLike))


def is_finite(value: object) -> bool:
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def short(value: object) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes no whole number of thousands of digits
        return type(value).__name__


def aligned(video: MaskedVideo, sound: object) -> MaskedVideo:
    """The video, with the start of its own sound if `sound`, a file, is in the same file."""
    both = is_file(sound) and is_file(video.frames)
    if not both or not existing(video.frames).samefile(existing(sound)):
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
            check_finite(piece, "the vision encoder's result")
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


def hide(frame: np.ndarray, mask) -> np.ndarray:
    """The frame (3, H, W) with zeros where the thing is."""
    return frame if mask is None else np.where(marked(frame, mask), np.uint8(0), frame)


def dim(frame: np.ndarray, mask) -> np.ndarray:
    """The frame (3, H, W), darker where the thing is not."""
    return frame // 3 if mask is None else np.where(marked(frame, mask), frame, frame // 3)


def matched(
    video: MaskedVideo, times: np.ndarray, paint: Callable = hide
) -> Iterator[tuple[np.ndarray, int]]:
    """The masked frames (3, H, W) uint8 that `times` (N,), ascending, need; and how many need each.

    The counts sum to N. The mask's frames go with the video's one to one.
    """
    if isinstance(video.frames, np.ndarray):
        chosen = selection.spread(len(video.frames), len(times))
        shown = zip(video.frames, np.bincount(chosen, minlength=len(video.frames)), strict=True)
    else:
        shown = counted(decoded(video.frames), times + float(video.start))
    masks, endless = each_mask(video.mask)
    missing, empty, left = object(), True, len(times)
    for frame, count in shown:
        mask = next(masks, missing)
        if mask is missing:
            raise SAMAudioError("the mask has fewer frames than the video")
        if count:
            empty = empty and isinstance(mask, np.ndarray) and not mask.any()
            yield paint(frame if isinstance(frame, np.ndarray) else rgb(frame), mask), int(count)
        left -= count
        if not left and endless:
            break
    if not endless and next(masks, missing) is not missing:
        raise SAMAudioError("the mask has more frames than the video")
    if empty:
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


def marked(frame: np.ndarray, mask) -> np.ndarray:
    """Where the thing is in a frame (3, H, W): (H, W) bool."""
    height, width = frame.shape[1:]
    if isinstance(mask, tuple):
        x0, y0, x1, y1 = mask
        if x1 > width or y1 > height:
            raise SAMAudioError(
                f"the box {short(mask)} does not lie inside the frame, which is {width} x {height} "
                "pixels"
            )
        mask = np.zeros((height, width), bool)
        mask[y0:y1, x0:x1] = True
    if mask.shape != (height, width):
        raise SAMAudioError(
            f"the mask is {mask.shape[1]} x {mask.shape[0]} pixels, the frame {width} x {height}"
        )
    return mask != 0


def check_box(box) -> None:
    whole = isinstance(box, tuple) and len(box) == 4 and all(isinstance(x, Integral) for x in box)
    if not whole or not (0 <= box[0] < box[2] and 0 <= box[1] < box[3]):
        raise SAMAudioError(
            f"a box is (x0, y0, x1, y1) in whole pixels, with 0 <= x0 < x1 and 0 <= y0 < y1, not "
            f"{short(box)}"
        )
