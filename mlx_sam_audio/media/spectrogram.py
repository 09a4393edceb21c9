"""A picture of one separation: mixture, target and residual on one time axis."""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ..prompts import Span
from . import figures

SPAN_COLOURS = {"+": "#3ddc84", "-": "#ff5c5c"}
FLOOR = -80  # dB below the loudest point of the mixture


def save(
    path: str | Path,
    rows: dict[str, Iterable[np.ndarray]],  # title -> blocks (t,) or (2, t), the mixture first
    samples: int,
    sample_rate: int,
    spans: Sequence[Span] = (),
) -> None:
    """Write a PNG of log spectrograms on one colour scale, spans marked on the first."""
    levels = {title: decibels(blocks, samples, sample_rate) for title, blocks in rows.items()}
    top = max(next(iter(levels.values())).max(), FLOOR)
    seconds = samples / sample_rate
    picture = figures.figure(10, 2.2 * len(rows))
    axes = picture.subplots(len(rows), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
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
    picture.colorbar(image, ax=list(axes), label="dB", pad=0.01)
    figures.save(picture, path, dpi=110)


def decibels(blocks: Iterable[np.ndarray], samples: int, sample_rate: int) -> np.ndarray:
    """Log power (columns, bins) of windows of about 32 ms, at most some 1200 of them; the channels'
    mean."""
    size = 2 ** round(np.log2(0.032 * sample_rate))
    hop = max(size // 4, samples // 1200)
    window = np.hanning(size).astype(np.float32)
    blocks = map(np.atleast_2d, blocks)
    first = next(blocks)
    silence = np.zeros((len(first), size), np.float32)
    columns, held, start = [], silence[:, size // 2 :], 0  # start of the next column
    for block in itertools.chain([first], blocks, [silence]):
        held = np.concatenate([held, block], axis=1)
        while start + size <= held.shape[1]:
            spectra = np.fft.rfft(held[:, start : start + size] * window)
            columns.append(np.square(np.abs(spectra)).mean(axis=0))
            start += hop
        drop = min(start, held.shape[1])
        held, start = held[:, drop:], start - drop
    return 10 * np.log10(np.stack(columns) / window.sum() ** 2 + 1e-12)
