"""Solvers against exact solutions."""

import math

import mlx.core as mx
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
