"""Is the wanted sound there at all? Window by window, by the span predictor or by the output.

Where a prompted sound is absent, models of this kind return something all the same, mostly faint.
Where spans were predicted, they say what is absent; else how far the target lies under the mixture.
That is a heuristic: `python -m benchmarks.candidates` shows what -20 dB gets right.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

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
    """Cuts consecutive pieces of target and residual into windows, and measures them.

    predicted: the spans of the whole file, if they were predicted. absent: below so many dB under
    the mixture, the target is.
    """

    def __init__(
        self,
        sample_rate: int,
        predicted: Sequence[Span] | None = None,
        absent: float = Settings.absent,
    ):
        self.sample_rate, self._predicted, self._absent = sample_rate, predicted, absent
        self._start, self._held = 0, np.zeros((2, 0), np.float32)

    def take(self, target: np.ndarray, residual: np.ndarray) -> Iterator:
        """The presence and the stems (2, t) of every window that ends in this piece (t,)."""
        self._held = np.concatenate([self._held, np.stack([target, residual])], axis=1)
        while self._held.shape[1] >= (size := round(WINDOW * self.sample_rate)):
            yield self._window(size)

    def end(self) -> Iterator:
        """The last window, which is shorter."""
        if self._held.shape[1]:
            yield self._window(self._held.shape[1])

    def _window(self, size: int) -> tuple[Presence, np.ndarray]:
        stems, self._held = self._held[:, :size], self._held[:, size:]
        start, self._start = self._start / self.sample_rate, self._start + size
        end, found, probability = self._start / self.sample_rate, None, None
        if self._predicted is not None:
            found = any(span.start < end and start < span.end for span in self._predicted)
        if hasattr(self._predicted, "probability"):  # a `Predicted`
            probability = self._predicted.probability(start, end)
        under = level(stems[0]) - level(stems[0] + stems[1])
        absent = under < self._absent if found is None else not found
        return Presence(start, end, under, absent, found, probability), stems


def measured(pieces: Iterable, meter: Meter) -> Iterator[tuple[Presence, np.ndarray]]:
    """Every window's presence, and its target and residual (2, t)."""
    for piece in pieces:
        yield from meter.take(*piece)
    yield from meter.end()


def gated(pieces: Iterable, meter: Meter) -> Iterator[tuple[Presence, np.ndarray]]:
    """The same with silence as target where the sound is absent, and the residual has it all.

    The fades lie in the absent windows, so that nothing of a present one is lost.
    """
    nothing = (None, None)
    rows = itertools.chain([nothing], measured(pieces, meter), [nothing])
    before, here = next(rows), next(rows)
    for after in rows:
        presence, stems = here
        if presence.absent:
            present = [row[0] is not None and not row[0].absent for row in (before, after)]
            target = stems[0] * gain(stems.shape[1], round(FADE * meter.sample_rate), *present)
            stems = np.stack([target, stems[0] + stems[1] - target])
        yield presence, stems
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
