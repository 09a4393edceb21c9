"""Pictures from which a box or a mask is chosen: a contact sheet, and what is marked."""

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from .figures import figure, save
from .frames import spread
from .video import MaskedVideo, dim, is_file, matched
from .video_files import duration, frame_at

SHARP = 2000  # pixels of a frame's longer side that are drawn, or nearly so many


def sketch(axes, title: str, frame: np.ndarray) -> None:
    """A frame under a grid of labelled pixels, from which a box can be read."""
    height, width = frame.shape[1:]
    step = 1 + max(height, width) // SHARP
    shown = frame[:, ::step, ::step].transpose(1, 2, 0).copy()
    axes.imshow(shown, interpolation="nearest", extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    axes.locator_params(nbins=8, steps=[1, 2, 5, 10], integer=True)
    axes.tick_params(labelsize=6)
    axes.grid(color="white", alpha=0.4, linewidth=0.5)
    axes.set_title(title, loc="left", fontsize=8)


def sheet(shots: Iterator[tuple[str, np.ndarray]], columns: int, rows: int, output) -> None:
    """Write a PNG of frames with their titles, one of them in memory at a time."""
    first = next(shots)
    height, width = first[1].shape[1:]
    picture = figure(4 * columns, 4 * rows * height / width + 0.3 * rows)
    grid = picture.subplots(rows, columns, squeeze=False).flat
    for axes, (title, frame) in zip(grid, itertools.chain([first], shots), strict=True):
        sketch(axes, title, frame)
    save(picture, output)


def moments(path: str | os.PathLike, count: int) -> np.ndarray:
    """Times from the whole video, seconds."""
    return (np.arange(count) + 0.5) * duration(path) / count


def contact_sheet(
    path: str | os.PathLike, output: str | Path, columns: int = 3, rows: int = 3
) -> None:
    """Write a PNG of frames from the whole video, with times and pixel coordinates."""
    shots = (frame_at(path, seconds) for seconds in moments(path, columns * rows))
    sheet(((f"{time:.2f} s", frame) for time, frame in shots), columns, rows, output)


def preview(video: MaskedVideo, output: str | Path, columns: int = 3, rows: int = 3) -> None:
    """Write a PNG of the frames of a contact sheet, in which all but the thing is dimmed."""
    count = columns * rows
    if is_file(video.frames):
        times = [frame_at(video.frames, seconds)[0] for seconds in moments(video.frames, count)]
        titles = [f"{time:.2f} s" for time in times]
    else:
        times = spread(len(video.frames), count)
        titles = [f"frame {time}" for time in times]
    pairs = matched(replace(video, start=0.0), np.array(times), dim)
    frames = itertools.chain.from_iterable(itertools.starmap(itertools.repeat, pairs))
    sheet(zip(titles, frames, strict=True), columns, rows, output)
