"""Fixed-grid solvers of dx/dt = f(t, x), as plans: when to evaluate f, and how to combine slopes.

Runge-Kutta methods are torchdiffeq's, over equal steps; its rk4 is the 3/8 rule. The multistep
methods take one evaluation a step, and shorter steps towards t = 1, where the field changes most:

* ab2, ab3: Adams-Bashforth with variable steps (Hairer, Norsett and Wanner, Solving Ordinary
  Differential Equations I, III.5), after a midpoint step whose slope in the middle is used too.
* dpm2, dpm3: the same idea for the end that a slope points at, x1 = x + (1 - t) v, which changes
  less than v on the straight paths of flow matching: x' = (x1(t) - x) / (1 - t) is integrated
  exactly for a polynomial x1(t), of lower degree in the first steps. Data prediction as in
  DPM-Solver++ (Lu et al., 2022); exponential Adams-Bashforth in the terms of Hochbruck and
  Ostermann (2010).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from .errors import SAMAudioError, shown

RUNGE_KUTTA = {  # nodes; weights of the slopes so far, for each further stage and for the step
    "euler": ((0,), ((1,),)),
    "midpoint": ((0, 1 / 2), ((1 / 2,), (0, 1))),
    "heun": ((0, 1), ((1,), (1 / 2, 1 / 2))),
    "rk4": (
        (0, 1 / 3, 2 / 3, 1),
        ((1 / 3,), (-1 / 3, 1), (1, -1, 1), (1 / 8, 3 / 8, 3 / 8, 1 / 8)),
    ),
}
ADAMS_BASHFORTH = {"ab2": 2, "ab3": 3}  # order
DPM = {"dpm2": 2, "dpm3": 3}
MOST_STEPS = 10_000
BEND = 1.5  # t = 1 - (1 - i / steps) ** BEND
METHODS = (*RUNGE_KUTTA, *ADAMS_BASHFORTH, *DPM)
QUALITY = {"fast": 8, "balanced": 16, "best": 32}  # steps of ab3, which is the default


@dataclass(frozen=True)
class Evaluation:
    """One slope, and the state y = scale * x + sum(weights * slopes) that follows from it."""

    time: float
    weights: tuple[float, ...]  # of this slope, of the one before it, ...
    ends_step: bool = True  # whether y becomes x
    scale: float = 1.0
    of_ends: bool = False  # weights are of y + (1 - t) * slope instead of slopes

    def term(self, y: mx.array, slope: mx.array) -> mx.array:
        return y + (1 - self.time) * slope if self.of_ends else slope


def plan(
    method: str, steps: int | None = None, times: Sequence[float] | None = None
) -> list[Evaluation]:
    """All evaluations from t = 0 to 1: over so many steps, or any grid `times`."""
    times = grid(method, steps, times)
    if method in RUNGE_KUTTA:
        return runge_kutta(*RUNGE_KUTTA[method], times)
    if method in ADAMS_BASHFORTH:
        return adams_bashforth(ADAMS_BASHFORTH[method], times)
    return dpm(DPM[method], times)


def grid(method: str, steps: int | None, times: Sequence[float] | None) -> list[float]:
    """The checked times of a plan's steps."""
    if method not in METHODS:
        raise SAMAudioError(f"unknown method {shown(method)}: choose one of {', '.join(METHODS)}")
    if times is None:
        if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MOST_STEPS:
            raise SAMAudioError(
                f"steps must be a whole number, 1 to {MOST_STEPS}, not {shown(steps)}"
            )
        bend = 1 if method in RUNGE_KUTTA else BEND
        return [1 - (1 - i / steps) ** bend for i in range(steps + 1)]
    times = [float(t) for t in times]
    increasing = all(a < b for a, b in zip(times, times[1:], strict=False))
    if len(times) < 2 or times[0] != 0 or times[-1] != 1 or not increasing:
        raise SAMAudioError(f"times must increase from 0 to 1, not {shown(times)}")
    return times


def runge_kutta(nodes: Sequence, rows: Sequence, times: list[float]) -> list[Evaluation]:
    evaluations = []
    for start, end in zip(times, times[1:], strict=False):
        h = end - start
        for i, (node, row) in enumerate(zip(nodes, rows, strict=True)):
            weights = tuple(h * weight for weight in reversed(row))
            last = i == len(nodes) - 1
            evaluations.append(Evaluation(start + node * h, trimmed(weights), last))
    return evaluations


def trimmed(weights: tuple[float, ...]) -> tuple[float, ...]:
    """Without the oldest slopes if they do not count, so that they need not be kept."""
    while weights[-1] == 0:
        weights = weights[:-1]
    return weights


def adams_bashforth(order: int, times: list[float]) -> list[Evaluation]:
    evaluations = runge_kutta(*RUNGE_KUTTA["midpoint"], times[:2])
    for start, end in zip(times[1:], times[2:], strict=False):
        nodes = [start, *(e.time for e in reversed(evaluations[1 - order :]))]
        h = end - start
        offsets = [(node - start) / h for node in nodes]
        weights = h * weights_of(offsets, [1, 1 / 2, 1 / 3])
        evaluations.append(Evaluation(start, tuple(weights.tolist())))
    return evaluations


def dpm(order: int, times: list[float]) -> list[Evaluation]:
    evaluations = []
    for i, (start, end) in enumerate(zip(times, times[1:], strict=False)):
        # with r = (1 - end) / (1 - t): x(end) = r(start) x(start) + the integral of x1 over r
        left, r = 1 - end, (1 - end) / (1 - start)
        integrals = [1.0, 0.0, 0.0]  # of (t - end) ** k, all of them at the end if that is t = 1
        if left:
            log = math.log(r)
            integrals = [1 - r, left * (1 - r + log), left**2 * (1 / r - r + 2 * log)]
        nodes = [time - end for time in reversed(times[max(i + 1 - order, 0) : i + 1])]
        weights = weights_of(nodes, integrals)
        evaluations.append(Evaluation(start, tuple(weights.tolist()), scale=r, of_ends=True))
    return evaluations


def weights_of(nodes: Sequence[float], integrals: Sequence[float]) -> np.ndarray:
    """Weights at the nodes that give the monomials 1, t, t**2, ... these integrals."""
    vandermonde = np.array(nodes) ** np.arange(len(nodes))[:, None]
    return np.linalg.solve(vandermonde, integrals[: len(nodes)])


def history(plan: Sequence[Evaluation]) -> int:
    """How many slopes must be kept beside the newest."""
    return max(len(evaluation.weights) for evaluation in plan) - 1


def integrate(f: Callable, x: mx.array, plan: Sequence[Evaluation]) -> Iterator[mx.array]:
    """Yield the state after each evaluation of f(t, y); the last one is x(1)."""
    terms, y = [], x
    for evaluation in plan:
        terms = [evaluation.term(y, f(evaluation.time, y)), *terms[: history(plan)]]
        y = advance(x, evaluation, terms)
        if evaluation.ends_step:
            x = y
        yield y


def advance(x: mx.array, evaluation: Evaluation, terms: Sequence[mx.array]) -> mx.array:
    if evaluation.scale != 1:
        x = evaluation.scale * x
    for weight, term in zip(evaluation.weights, terms, strict=False):
        x = x + weight * term
    return x


def integrate_in_place(
    slopes: Callable, x: np.ndarray, plan: Sequence[Evaluation], done: int = 0, kept=()
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """`integrate` on a state too long to keep many copies of; x is changed.

    slopes(y, t) yields (a, b, slope of the elements a..b), in order, and does not read those
    elements of y again. Yields, after each step, the evaluations done and the slopes kept: with x
    they are all that is needed to go on.
    """
    size, kept, y = history(plan), list(kept), x
    for number, evaluation in enumerate(plan[done:], done + 1):
        target = x if evaluation.ends_step else np.empty_like(x) if y is x else y
        if size:  # the oldest slope is overwritten by the newest
            recycled = kept.pop() if len(kept) == size else np.empty_like(x)
        for a, b, slope in slopes(y, evaluation.time):
            earlier = [k[a:b] for k in (*kept, recycled)] if size else []
            term = evaluation.term(y[a:b], slope)
            target[a:b] = advance(x[a:b], evaluation, [term, *earlier])
            if size:
                recycled[a:b] = term
        if size:
            kept.insert(0, recycled)
        y = target
        if evaluation.ends_step:
            yield number, kept
