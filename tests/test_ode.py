"""Solvers against exact solutions."""

import math

import mlx.core as mx
import numpy as np
import pytest

from mlx_sam_audio import SAMAudioError, ode


def solve(f, x0: float, times, method: str) -> float:
    *_, x = ode.integrate(f, mx.array(x0), times, method)
    return x.item()


@pytest.mark.parametrize(
    "method, order, steps", [("euler", 1, 99), ("midpoint", 2, 32), ("rk4", 4, 12)]
)
def test_order_of_convergence(method, order, steps):
    """x' = 3x grows to exp(3)."""

    def error(steps):
        return abs(solve(lambda t, x: 3 * x, 1.0, ode.grid(method, steps), method) - math.exp(3))

    assert math.log2(error(steps) / error(2 * steps)) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("method, degree", [("euler", 0), ("midpoint", 1), ("rk4", 3)])
def test_polynomials_are_exact_on_any_grid(method, degree):
    x = solve(lambda t, x: mx.array((degree + 1.0) * t**degree), 0.0, [0, 0.3, 0.35, 1], method)
    assert x == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("method, count", [("euler", 3), ("midpoint", 6), ("rk4", 12)])
def test_evaluations_are_counted(method, count):
    calls = []
    solve(lambda t, x: calls.append(t) or x, 1.0, [0, 0.5, 0.75, 1], method)
    assert len(calls) == count == ode.evaluations(method, [0, 0.5, 0.75, 1])


@pytest.mark.parametrize("times", [[0, 0.5], [0.1, 1], [0, 0.5, 0.5, 1], [0], [0, math.nan, 1]])
def test_bad_grids(times):
    with pytest.raises(SAMAudioError, match="must increase from 0 to 1"):
        ode.grid("euler", 4, times)


@pytest.mark.parametrize("steps", [0, -1, 2.5, True])
def test_bad_steps(steps):
    with pytest.raises(SAMAudioError, match="whole number of at least 1"):
        ode.grid("euler", steps)


def test_unknown_method():
    with pytest.raises(SAMAudioError, match="'rk45'.*euler, midpoint, rk4"):
        ode.grid("rk45", 4)


@pytest.mark.parametrize("method", list(ode.METHODS))
def test_in_place_steps_are_the_same(method):
    """The field couples neighbours, and pieces are overwritten while others are still to come."""
    rng = np.random.default_rng(0)
    mixing, x = rng.normal(size=(12, 12)).astype(np.float32), rng.normal(size=12)
    x = x.astype(np.float32)

    def slopes(y, t):
        slope = np.tanh(mixing @ y) * (1 + t)
        for a in range(0, 12, 5):
            yield a, min(a + 5, 12), slope[a : a + 5]

    times = [0, 0.2, 0.7, 1]
    *_, expected = ode.integrate(lambda t, y: np.tanh(mixing @ y) * (1 + t), x, times, method)
    state = x.copy()
    for start, end in zip(times, times[1:], strict=False):
        ode.step_in_place(slopes, state, start, end, method)
    assert np.allclose(state, expected, rtol=1e-5)
