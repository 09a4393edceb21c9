"""A picture of one separation: mixture, target and residual on one time axis."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .errors import SAMAudioError
from .prompts import Span

SPAN_COLOURS = {"+": "#3ddc84", "-": "#ff5c5c"}
FLOOR = -80  # dB below the loudest point of the mixture


def save(
    path: str | Path,
    rows: dict[str, np.ndarray],  # title -> (T,), the mixture first
    sample_rate: int,
    spans: Sequence[Span] = (),
) -> None:
    """Write a PNG of log spectrograms on one colour scale, spans marked on the first."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SAMAudioError(
            "pictures need matplotlib: `pip install 'mlx-sam-audio[plot]'`"
        ) from None
    levels = {title: decibels(samples, sample_rate) for title, samples in rows.items()}
    top = max(next(iter(levels.values())).max(), FLOOR)
    seconds = max(map(len, rows.values())) / sample_rate
    figure = Figure(figsize=(10, 2.2 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axis, (title, level) in zip(axes, levels.items(), strict=True):
        image = axis.imshow(
            level.T,
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=top + FLOOR,
            vmax=top,
            extent=(0, seconds, 0, sample_rate / 2000),
        )
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_ylabel("kHz")
    for span in spans:
        for edge in (span.start, span.end):
            axes[0].axvline(edge, color=SPAN_COLOURS[span.sign], linewidth=1)
        axes[0].axvspan(span.start, span.end, ymin=0.96, color=SPAN_COLOURS[span.sign])
    axes[-1].set_xlabel("seconds")
    figure.colorbar(image, ax=list(axes), label="dB", pad=0.01)
    try:
        figure.savefig(path, dpi=110, format="png")
    except OSError as error:
        raise SAMAudioError(f"cannot write {path}: {error.strerror}") from None


def decibels(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Log power (frames, bins) in windows of about 32 ms, at most 1200 of them."""
    size = 2 ** round(np.log2(0.032 * sample_rate))
    hop = max(size // 4, len(samples) // 1200)
    padded = np.pad(np.asarray(samples, np.float32), (size // 2, size))
    count = 1 + len(samples) // hop
    window = np.hanning(size).astype(np.float32)
    starts = hop * np.arange(count)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[starts] * window
    power = np.square(np.abs(np.fft.rfft(frames, axis=1))) / window.sum() ** 2
    return 10 * np.log10(power + 1e-12)
