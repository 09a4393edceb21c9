"""All that a separation can be told beside its sound and prompt: the only defaults and checks."""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any

import mlx.core as mx
import numpy as np

from . import kinds, ode
from .errors import SAMAudioError, shown
from .kinds import Array, Bytes, Decibels, Flag, Kind, Numbers, Seconds, Seed, Whole, Word
from .ranking import rank

STEREO = ("mono", "mid", "both")
RESIDUALS = ("model", "subtract", "alone", "share")
ROUNDS = (2, 4, 8)  # how many candidates there are after each round of "auto"
MOST = 64  # candidates
LONG = 10.0  # seconds of a window where the method asks for windows
# of which a solver knows nothing
AFTERWARDS = {"candidates", "ranker", "gate", "absent", "predict_spans", "max_memory"}


def is_ranker(value: object) -> bool:
    weights = isinstance(value, Mapping) and all(map(kinds.is_number, value.values()))
    return weights or kinds.is_text(value) or callable(value)


Candidates = Annotated[
    int | str, Kind(kinds.either(kinds.is_whole, kinds.is_text), 'a number, or "auto"')
]
Ranker = Annotated[
    str | Mapping[str, float] | Callable[..., Any],
    Kind(is_ranker, "a ranker's name, names with weights, or a function"),
]
Predict = Annotated[
    bool | Callable[..., Any],
    Kind(kinds.either(kinds.is_flag, callable), "True, False or a span predictor"),
]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a separation; a value that cannot be raises SAMAudioError.

    method, steps, times: the ODE solver (see `ode`) and its steps, of which 8 are fast and 32 best;
    `times` is any grid from 0 to 1 instead.
    seed: decides the noise at t = 0 and the watermark's message. noise (1, N, 2C) and message
    (2, 16): given instead.
    window, overlap: seconds that the model sees at once and that neighbouring windows share.
    Without a window, `separate` and `separate_batch` take the audio in one piece, as the reference
    does; `separate_long` and `stream` take windows of 10 s.
    candidates: how many results the ranker chooses from, or "auto": 2, 4 or 8, as long as the best
    two are close; candidate i is drawn from seed + i. ranker: see `ranking.rank`.
    predict_spans: True, or a `SpanPredictor` (or functools.partial of one): where no spans are
    given, they are predicted.
    stereo: "mono", as the reference, or two channels, which are shares of the recording (see
    `engine.share`): where the model hears "both", left and right, or only their "mid", in half the
    time.
    residual: "model" for the model's own; "subtract" for mixture - target, whose sum with the
    target is the mixture, and which need not be decoded; "alone" for the model's own, and mixture -
    residual as target, the other way round; "share" for target and residual as shares of the
    recording, whose sum is the mixture, and which hold nothing that is not in it.
    gate: silence where the sound seems to be absent: in windows in which the target lies `absent`
    decibels or more under the mixture, or in which no predicted span lies.
    watermark: whether the codec marks what it decodes, inaudibly.
    max_memory: bytes that the work is cut to fit; without it, what the machine offers.
    """

    method: Word = "ab3"
    steps: Whole = 16
    times: Numbers | None = None
    seed: Seed = 0
    noise: Array | None = None
    message: Array | None = None
    window: Seconds | None = None
    overlap: Seconds = 3.0
    candidates: Candidates = 1
    ranker: Ranker = rank.DEFAULT
    predict_spans: Predict = False
    stereo: Word = "mono"
    residual: Word = "model"
    gate: Flag = False
    absent: Decibels = -20.0
    watermark: Flag = True
    max_memory: Bytes | None = None

    def __post_init__(self):
        kinds.check(vars(self), type(self))
        for name, value in vars(self).items():
            object.__setattr__(self, name, kinds.native(value))
        if self.times is not None:
            object.__setattr__(self, "times", tuple(map(float, self.times)))
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise SAMAudioError(f"seed must be {kinds.SEED}, not {shown(self.seed)}")
        ode.grid(self.method, self.steps, self.times)
        if self.window is not None and not 0 < self.window < math.inf:
            raise SAMAudioError(f"the window must last some seconds, not {self.window:g}")
        if not 0 <= self.overlap < (math.inf if self.window is None else self.window):
            raise SAMAudioError(
                f"the overlap ({self.overlap:g} s) must be 0 or more, and shorter than the window"
            )
        known = isinstance(self.candidates, int) and 1 <= self.candidates <= MOST
        if not known and self.candidates != "auto":
            raise SAMAudioError(
                f'candidates must be 1 to {MOST}, or "auto", not {shown(self.candidates)}'
            )
        if self.candidates != 1 and (self.noise is not None or self.message is not None):
            raise SAMAudioError("noise= and message= belong to one candidate: give seed= instead")
        rank.ranker(self.ranker)
        for name, words in (("stereo", STEREO), ("residual", RESIDUALS)):
            if getattr(self, name) not in words:
                given = shown(getattr(self, name))
                raise SAMAudioError(f"{name} must be one of {', '.join(words)}, not {given}")
        if self.stereo != "mono" and self.residual in ("subtract", "alone"):
            raise SAMAudioError(
                f"stereo stems are shares of the recording, which add up to it already: leave out "
                f'residual="{self.residual}"'
            )
        if self.shares and self.message is not None:
            raise SAMAudioError("shares of a recording carry no watermark: leave out message=")
        if self.max_memory is not None and self.max_memory < 1:
            raise SAMAudioError(
                f"max_memory is a number of bytes, 1 or more, not {shown(self.max_memory)}"
            )

    @property
    def plan(self) -> list[ode.Evaluation]:
        return ode.plan(self.method, self.steps, self.times)

    @property
    def shares(self) -> bool:
        """Whether stems are shares of the recording."""
        return self.stereo != "mono" or self.residual == "share"

    @property
    def decoded(self) -> slice:
        """What is decoded of target and residual."""
        whole = self.shares or self.candidates != 1  # rankers compare the model's own residuals
        one = {} if whole else {"subtract": slice(0, 1), "alone": slice(1, 2)}
        return one.get(self.residual, slice(0, 2))

    @property
    def rounds(self) -> tuple[int, ...]:
        """How many candidates there are after each round."""
        return ROUNDS if self.candidates == "auto" else (self.candidates,)

    def fingerprint(self) -> str:
        """Of all that decides the solver's state, on any machine."""
        names = [field.name for field in fields(Settings) if field.name not in AFTERWARDS]
        return digest(*(getattr(self, name) for name in names))


def digest(*values: object) -> str:
    """One fingerprint of arrays and of anything that prints."""
    sha = hashlib.sha256()
    for value in values:
        arrays = isinstance(value, (np.ndarray, mx.array))
        if arrays:
            sha.update(repr((value.shape, str(value.dtype))).encode())
        sha.update(np.ascontiguousarray(value) if arrays else repr(value).encode())
        sha.update(b"\0")
    return sha.hexdigest()
