"""How far a run is: stages, the seconds that they took, and those that they will take."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from ..calls import go_on
from ..kinds import Kind
from ..models.dacvae import CodecConfig
from ..models.dit import TransformerConfig


@dataclass(frozen=True)
class Progress:
    """What `progress=` is told.

    stage: "load", "encode", "solve", "rank", "decode" or "write". done, total: of the stage: latent
    frames that were encoded; evaluations of windows; candidates that were ranked; latent frames
    that were decoded, of all stems. fraction: of the whole run's work, 0 to 1. seconds_left: an
    estimate, None before there is one.
    """

    stage: str
    done: int
    total: int
    fraction: float
    seconds_left: float | None


Tell = Annotated[Callable[[Progress], object], Kind(callable, "a function")]


class Watch:
    """Counts what was done, tells the caller, and lets him stop it.

    totals: how many units there are of each stage; costs: the work of one, in any measure.
    """

    def __init__(
        self,
        tell: Callable[[Progress], object] | None,
        totals: dict[str, int],
        costs: dict[str, float],
    ):
        self.seconds: dict[str, float] = {}  # by stage
        self._tell, self._totals, self._costs = tell, totals, costs
        self._done = dict.fromkeys(totals, 0)
        self._skipped = dict.fromkeys(totals, 0)  # of those done
        self._last = time.perf_counter()

    def start(self) -> None:
        """The run begins, or goes on after a pause."""
        self._last = time.perf_counter()

    def done(self, stage: str) -> int:
        return self._done[stage]

    def total(self, stage: str) -> int:
        return self._totals[stage]

    def skipped(self, stage: str) -> int:
        """Of those done, how many an interrupted run had done."""
        return self._skipped[stage]

    def skip(self, stage: str, count: int) -> None:
        """What an interrupted run did already."""
        self._done[stage] += count
        self._skipped[stage] += count

    def skip_rest(self, stage: str) -> None:
        """What need not be done."""
        self.skip(stage, self._totals[stage] - self._done[stage])

    def advance(self, stage: str, count: int = 0) -> None:
        """So much more of a stage is done; all the time since the last call was its."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now
        self._done[stage] += count
        if self._tell is not None:
            self._tell(self._progress(stage))
        go_on()

    def _progress(self, stage: str) -> Progress:
        work = self._work(self._totals)
        return Progress(
            stage,
            self._done[stage],
            self._totals[stage],
            self._work(self._done) / work if work else 0.0,
            self._seconds_left(),
        )

    def _work(self, counts: dict[str, int]) -> float:
        return sum(count * self._costs.get(stage, 0.0) for stage, count in counts.items())

    def _seconds_left(self) -> float | None:
        """Stages that began go on as fast; the others take their share of work."""
        made = {stage: done - self._skipped[stage] for stage, done in self._done.items()}
        work = self._work(made)
        if not work:
            return None
        spent = sum(self.seconds.get(stage, 0.0) for stage in made if self._costs.get(stage))
        left = 0.0
        for stage, cost in self._costs.items():
            pace = self.seconds[stage] / made[stage] if made[stage] else cost * spent / work
            left += (self._totals[stage] - self._done[stage]) * pace
        return left


def costs(codec: CodecConfig, transformer: TransformerConfig, size: int) -> dict[str, float]:
    """Multiplications of each stage's unit, about: a frame to encode, an evaluation of a window of
    `size` frames, a frame of a stem to decode."""
    dim = transformer.dim
    layer = 6 * dim**2 + 3 * dim * transformer.ffn_dim + 2 * dim * size
    return {
        "encode": convolutions(codec.encoder_dim, codec.encoder_rates),
        "solve": size * transformer.n_layers * layer,
        "decode": convolutions(
            codec.decoder_dim // 2 ** len(codec.decoder_rates), codec.decoder_rates[::-1]
        ),
    }


def convolutions(width: int, rates: tuple[int, ...]) -> float:
    """Multiplications for a latent frame in a half of the codec, from the waveform's side: before
    each stride three residual units of 7 + 1 taps, then a convolution of 2 strides to twice the
    width."""
    steps, work = 1, 0
    for rate in rates:
        steps *= rate
    for rate in rates:
        work += steps * (3 * 8 * width**2 + 2 * 2 * width**2)
        steps, width = steps // rate, 2 * width
    return work
