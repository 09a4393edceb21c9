"""Fixed-grid solvers of dx/dt = f(t, x), in Butcher form, as in torchdiffeq.

Its rk4 is the 3/8 rule. States are yielded, so the caller decides when to evaluate, show progress
or stop.
"""

from collections.abc import Callable, Iterator, Sequence

import mlx.core as mx
import numpy as np

from .errors import SAMAudioError

METHODS = {  # nodes, weights of the earlier slopes in each stage, weights of the step
    "euler": ((0,), ((),), (1,)),
    "midpoint": ((0, 1 / 2), ((), (1 / 2,)), (0, 1)),
    "rk4": (
        (0, 1 / 3, 2 / 3, 1),
        ((), (1 / 3,), (-1 / 3, 1), (1, -1, 1)),
        (1 / 8, 3 / 8, 3 / 8, 1 / 8),
    ),
}


def grid(method: str, steps: int, times: Sequence[float] | None = None) -> list[float]:
    """The checked time grid: `times` itself, or `steps` equal steps from 0 to 1."""
    if method not in METHODS:
        raise SAMAudioError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}")
    if times is None:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise SAMAudioError(f"steps must be a whole number of at least 1, not {steps!r}")
        return [i / steps for i in range(steps + 1)]
    times = [float(t) for t in times]
    increasing = all(a < b for a, b in zip(times, times[1:], strict=False))
    if len(times) < 2 or times[0] != 0 or times[-1] != 1 or not increasing:
        raise SAMAudioError(f"times must increase from 0 to 1, not {times}")
    return times


def evaluations(method: str, times: Sequence[float]) -> int:
    return len(METHODS[method][0]) * (len(times) - 1)


def integrate(f: Callable, x: mx.array, times: Sequence[float], method: str) -> Iterator[mx.array]:
    """Yield x after each step of the grid `times`; the last one is x(1)."""
    nodes, stages, step = METHODS[method]
    for start, end in zip(times, times[1:], strict=False):
        h = end - start
        slopes = []
        for node, weights in zip(nodes, stages, strict=True):
            slopes.append(f(start + node * h, advance(x, weights, slopes, h)))
        x = advance(x, step, slopes, h)
        yield x


def advance(x: mx.array, weights: Sequence[float], slopes: list, h: float) -> mx.array:
    for weight, slope in zip(weights, slopes, strict=True):
        if weight:
            x = x + (weight * h) * slope
    return x


def step_in_place(slopes: Callable, x: np.ndarray, start: float, end: float, method: str) -> None:
    """One step of `integrate` on a state too long to keep many copies of.

    slopes(y, t) yields (a, b, slope of the elements a..b), in order, and does not read those
    elements of y again. Euler needs no memory but x, midpoint one copy of it.
    """
    nodes, stages, step = METHODS[method]
    h, last, y = end - start, len(nodes) - 1, x
    kept = [np.zeros_like(x) if needed_later(i, stages, step) else None for i in range(len(nodes))]
    for i, node in enumerate(nodes):
        target = x if i == last else np.empty_like(x) if y is x else y
        weights = step if i == last else stages[i + 1]
        for a, b, slope in slopes(y, start + node * h):
            if kept[i] is not None:
                kept[i][a:b] = slope
            terms = [None if k is None else k[a:b] for k in kept[:i]] + [slope]
            target[a:b] = advance(x[a:b], weights, terms, h)
        y = target


def needed_later(i: int, stages: Sequence, step: Sequence[float]) -> bool:
    """Whether slope i has a weight in anything but the stage that comes right after it."""
    return any(row[i] for row in stages[i + 2 :]) or (i < len(step) - 1 and bool(step[i]))
