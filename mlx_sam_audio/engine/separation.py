"""What a separation gives."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..calls import NO_PATH, PATH, check
from ..media import audio as audio_files
from ..prompts import Span
from .presence import Presence, gated, measured


@dataclass(frozen=True, eq=False)
class Separation:
    """What was asked for and what is left, mono, as long as the input."""

    target: mx.array  # (T,) float32
    residual: mx.array  # (T,) float32
    sample_rate: int
    seed: int
    spans: tuple[Span, ...]
    evaluations: int
    seconds: dict[str, float] = field(default_factory=dict)  # encode, solve, decode; of the batch
    presence: tuple[Presence, ...] = ()  # is the sound there? window by window
    score: float | None = None  # the ranker's, where there were several candidates
    scores: dict[str, float] = field(default_factory=dict)  # the same, and what it consists of
    candidates: tuple["Separation", ...] = ()  # all of them, in the order of their seeds

    def measured(self, predicted: tuple[Span, ...] | None = None) -> "Separation":
        """The same with its presence. predicted: its spans, where they were predicted."""
        stems = [(np.array(self.target), np.array(self.residual))]
        rows = measured(stems, self.sample_rate, predicted)
        return replace(self, presence=tuple(row for row, _ in rows))

    def gated(self, predicted: tuple[Span, ...] | None = None) -> "Separation":
        """The same with silence where the sound is absent: see `presence`."""
        stems = [(np.array(self.target), np.array(self.residual))]
        pieces = [piece for _, piece in gated(stems, self.sample_rate, predicted)]
        target, residual = mx.array(np.concatenate(pieces, axis=1))
        return replace(self, target=target, residual=residual)

    def save(self, target: str | Path, residual: str | Path | None = None) -> list[str]:
        """Write wav (32-bit float) or flac (24-bit). Returns notices of peaks above full scale."""
        check(dict(target=target, residual=residual), dict(target=PATH, residual=NO_PATH))
        stems = [(target, np.array(self.target)), (residual, np.array(self.residual))]
        written = audio_files.write_all(
            [(path, stem) for path, stem in stems if path is not None], self.sample_rate
        )
        return [notice for notice in written if notice]
