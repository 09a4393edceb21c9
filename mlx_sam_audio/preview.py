"""Pictures from which a box or a mask is chosen: a contact sheet, and what is marked."""

from pathlib import Path

import numpy as np

from .figures import figure, save
from .video import MaskedVideo, matched
from .video_files import duration, frame_at


def sketch(axes, title: str, frame: np.ndarray) -> None:
    """A frame under a grid of labelled pixels, from which a box can be read."""
    axes.imshow(frame.transpose(1, 2, 0), interpolation="nearest")
    axes.locator_params(nbins=8, steps=[1, 2, 5, 10], integer=True)
    axes.tick_params(labelsize=6)
    axes.grid(color="white", alpha=0.4, linewidth=0.5)
    axes.set_title(title, loc="left", fontsize=8)


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
