"""Is a wanted sound there at all? Window by window, by the span predictor or by the output.

Where a prompted sound is absent, models of this kind return something all the same, mostly faint.
Where spans were predicted, they say what is absent; else how far the target lies under the mixture.
That is a heuristic: docs/ranking.md shows what -20 dB gets right.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..prompts import Span
from ..ranking.metrics import level
from ..settings import Settings

WINDOW = 1.0  # seconds
FADE = 0.05  # seconds


@dataclass(frozen=True)
class Presence:
    """A window: its start and end in seconds, and the target's level under the mixture in dB."""

    start: float
    end: float
    level: float
    absent: bool
    predicted: bool | None = None  # whether a predicted span lies in it, where they were predicted
    probability: float | None = None  # the predictor's highest of its frames, if it tells


class Meter:
    """Cuts consecutive pieces of stems into windows, and measures each target of K prompts.

    predicted: the spans of the whole file, for each prompt for which they were predicted, else
    None. absent: below so many dB under the mixture, a target is. Stems are (K, C, t), residuals
    (K, C, t), or (1, C, t) where the prompts share one.
    """

    def __init__(
        self,
        sample_rate: int,
        predicted: Sequence[Sequence[Span] | None] = (None,),
        absent: float = Settings.absent,
    ):
        self.sample_rate, self._predicted, self._absent = sample_rate, predicted, absent
        self._start, self._held = 0, ()

    def take(self, targets: np.ndarray, residuals: np.ndarray) -> Iterator["Window"]:
        """Every window that ends in this piece."""
        piece = targets, residuals
        if self._held:
            piece = [np.concatenate(pair, axis=-1) for pair in zip(self._held, piece, strict=True)]
        self._held, size = piece, round(WINDOW * self.sample_rate)
        while self._held[0].shape[-1] >= size:
            yield self._window(size)

    def end(self) -> Iterator["Window"]:
        """The last window, which is shorter."""
        if self._held and self._held[0].shape[-1]:
            yield self._window(self._held[0].shape[-1])

    def _window(self, size: int) -> "Window":
        targets, residuals = (stems[..., :size] for stems in self._held)
        self._held = [stems[..., size:] for stems in self._held]
        start, self._start = self._start / self.sample_rate, self._start + size
        end = self._start / self.sample_rate
        mixtures = mixtures_of(targets, residuals)
        rows = []
        for target, mixture, spans in zip(targets, mixtures, self._predicted, strict=True):
            found, probability = None, None
            if spans is not None:
                found = any(span.start < end and start < span.end for span in spans)
            if hasattr(spans, "probability"):  # a `Predicted`
                probability = spans.probability(start, end)
            under = level(target) - level(mixture)
            absent = under < self._absent if found is None else not found
            rows.append(Presence(start, end, under, absent, found, probability))
        return Window(rows, targets, residuals)


class Window(NamedTuple):
    """A second of all stems, and whether each prompt's sound is there."""

    presences: list[Presence]
    targets: np.ndarray
    residuals: np.ndarray


def mixtures_of(targets: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    """What targets (K, C, t) were separated from, (K, C, t)."""
    if len(residuals) == len(targets):
        return targets + residuals
    return np.broadcast_to(targets.sum(axis=0) + residuals, targets.shape)


def measured(pieces: Iterable[tuple[np.ndarray, np.ndarray]], meter: Meter) -> Iterator[Window]:
    """All windows of consecutive pieces of targets and residuals."""
    for piece in pieces:
        yield from meter.take(*piece)
    yield from meter.end()


def gated(pieces: Iterable[tuple[np.ndarray, np.ndarray]], meter: Meter) -> Iterator[Window]:
    """The same with silence as target where the sound is absent, and the residual has it all.

    The fades lie in the absent windows, so that nothing of a present one is lost.
    """
    rows = itertools.chain([None], measured(pieces, meter), [None])
    before, here = next(rows), next(rows)
    for after in rows:
        gains = np.ones((len(here.targets), 1, here.targets.shape[-1]), np.float32)
        for k, presence in enumerate(here.presences):
            if presence.absent:
                sounds = (
                    row is not None and not row.presences[k].absent for row in (before, after)
                )
                gains[k] = gain(gains.shape[-1], round(FADE * meter.sample_rate), *sounds)
        targets = here.targets * gains
        silenced = here.targets - targets
        if len(here.residuals) < len(targets):  # the prompts share one
            silenced = silenced.sum(axis=0, keepdims=True)
        yield Window(here.presences, targets, here.residuals + silenced)
        before, here = here, after


def gain(samples: int, fade: int, falls: bool, rises: bool) -> np.ndarray:
    """Zeros (samples,), with raised cosines where a present window lies beside them."""
    fade = min(fade, samples // 2)
    ramp = 0.5 + 0.5 * np.cos(np.pi * (np.arange(fade) + 0.5) / max(fade, 1))
    row = np.zeros(samples, np.float32)
    if falls:
        row[:fade] = ramp
    if rises:
        row[samples - fade :] = ramp[::-1]
    return row


def absences(found: Iterable[Presence]) -> list[tuple[float, float]]:
    """Start and end of every stretch of absent windows."""
    runs = itertools.groupby(found, key=lambda presence: presence.absent)
    stretches = [list(run) for absent, run in runs if absent]
    return [(run[0].start, run[-1].end) for run in stretches]
