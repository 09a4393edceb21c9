"""Fixed-grid solvers of dx/dt = f(t, x), as plans: when to evaluate f, and how to combine slopes.

Runge-Kutta methods are torchdiffeq's; its rk4 is the 3/8 rule. The Adams-Bashforth methods, of one
evaluation a step, start with a midpoint step, whose slope in the middle they use as well (Hairer,
Norsett and Wanner, Solving Ordinary Differential Equations I, III.5: variable step sizes).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from .errors import SAMAudioError

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
METHODS = (*RUNGE_KUTTA, *ADAMS_BASHFORTH)


@dataclass(frozen=True)
class Evaluation:
    """One slope, and the state y = x + sum(weights * slopes) at which the next one is taken."""

    time: float
    weights: tuple[float, ...]  # of this slope, of the one before it, ...
    ends_step: bool  # whether y becomes x


def plan(
    method: str, steps: int | None = None, times: Sequence[float] | None = None
) -> list[Evaluation]:
    """All evaluations from t = 0 to 1: over `steps` equal steps, or any grid `times`."""
    if method not in METHODS:
        raise SAMAudioError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}")
    times = grid(steps, times)
    if method in RUNGE_KUTTA:
        return runge_kutta(*RUNGE_KUTTA[method], times)
    return adams_bashforth(ADAMS_BASHFORTH[method], times)


def grid(steps: int | None, times: Sequence[float] | None) -> list[float]:
    if times is None:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise SAMAudioError(f"steps must be a whole number of at least 1, not {steps!r}")
        return [i / steps for i in range(steps + 1)]
    times = [float(t) for t in times]
    increasing = all(a < b for a, b in zip(times, times[1:], strict=False))
    if len(times) < 2 or times[0] != 0 or times[-1] != 1 or not increasing:
        raise SAMAudioError(f"times must increase from 0 to 1, not {times}")
    return times


def runge_kutta(nodes: Sequence, rows: Sequence, times: list[float]) -> list[Evaluation]:
    evaluations = []
    for start, end in zip(times, times[1:], strict=False):
        h = end - start
        for i, (node, row) in enumerate(zip(nodes, rows, strict=True)):
            weights = tuple(h * weight for weight in reversed(row))
            evaluations.append(Evaluation(start + node * h, trimmed(weights), i == len(nodes) - 1))
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
        evaluations.append(Evaluation(start, integral_weights(nodes, start, end), True))
    return evaluations


def integral_weights(nodes: list[float], start: float, end: float) -> tuple[float, ...]:
    """Weights that integrate, from start to end, the polynomial through values at the nodes."""
    h, powers = end - start, np.arange(len(nodes))
    vandermonde = ((np.array(nodes) - start) / h) ** powers[:, None]
    return tuple(map(float, h * np.linalg.solve(vandermonde, 1 / (powers + 1))))


def history(plan: Sequence[Evaluation]) -> int:
    """How many slopes must be kept beside the newest."""
    return max(len(evaluation.weights) for evaluation in plan) - 1


def integrate(f: Callable, x: mx.array, plan: Sequence[Evaluation]) -> Iterator[mx.array]:
    """Yield the state after each evaluation of f(t, y); the last one is x(1)."""
    slopes, y = [], x
    for evaluation in plan:
        slopes = [f(evaluation.time, y), *slopes[: history(plan)]]
        y = advance(x, evaluation.weights, slopes)
        if evaluation.ends_step:
            x = y
        yield y


def advance(x: mx.array, weights: Sequence[float], slopes: Sequence[mx.array]) -> mx.array:
    for weight, slope in zip(weights, slopes, strict=False):
        x = x + weight * slope
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
            target[a:b] = advance(x[a:b], evaluation.weights, [slope, *earlier])
            if size:
                recycled[a:b] = slope
        if size:
            kept.insert(0, recycled)
        y = target
        if evaluation.ends_step:
            yield number, kept
