"""Solvers against exact solutions."""

import math

import mlx.core as mx
import numpy as np
import pytest

from mlx_sam_audio import SAMAudioError, ode


def solve(f, x0: float, plan) -> float:
    *_, x = ode.integrate(f, np.float64(x0), plan)
    return float(x)


ORDERS = dict(
    euler=1, midpoint=2, heun=2, rk4=4, ab2=2, ab3=3, dpm2=2, dpm3=2
)  # dpm3 starts with a step of order 1


@pytest.mark.parametrize("method", ode.METHODS)
def test_order_of_convergence(method):
    """x' = 3x grows to exp(3)."""

    def error(steps):
        return abs(solve(lambda t, x: 3 * x, 1.0, ode.plan(method, steps)) - math.exp(3))

    assert math.log2(error(256) / error(512)) == pytest.approx(ORDERS[method], abs=0.1)


@pytest.mark.parametrize(
    "method, degree",
    [("euler", 0), ("midpoint", 1), ("heun", 1), ("rk4", 3), ("ab2", 1), ("ab3", 1)],
)
def test_polynomials_are_exact_on_any_grid(method, degree):
    plan = ode.plan(method, times=[0, 0.3, 0.35, 0.6, 1])
    x = solve(lambda t, x: mx.array((degree + 1.0) * t**degree), 0.0, plan)
    assert x == pytest.approx(1, abs=1e-6)


def test_adams_bashforth_integrates_parabolas_after_its_start():
    times = [0, 0.3, 0.35, 0.6, 1]
    states = list(
        ode.integrate(lambda t, x: mx.array(3 * t**2), mx.array(0.0), ode.plan("ab3", times=times))
    )
    assert (states[-1] - states[1]).item() == pytest.approx(1 - 0.3**3, abs=1e-6)


def test_adams_bashforth_weights():
    """The textbook's, on equal steps."""
    times = [0, 0.1, 0.2, 0.3, 0.4, 1]
    assert np.allclose(ode.plan("ab2", times=times)[3].weights, np.array([3, -1]) / 20)
    assert np.allclose(ode.plan("ab3", times=times)[4].weights, np.array([23, -16, 5]) / 120)


@pytest.mark.parametrize("method, degree", [("dpm2", 1), ("dpm3", 2)])
def test_dpm_is_exact_for_ends_that_move_as_polynomials(method, degree):
    """x' = (e(t) - x) / (1 - t) with e = 1 + t**degree, after the steps that make up a history."""
    exact = {
        1: lambda t: 1 + 1 + (1 - t) * (math.log(1 - t) if t < 1 else 0) - (1 - t),
        2: lambda t: 2 - (1 - t) * (2 - t) + 2 * (1 - t) * (math.log(1 - t) if t < 1 else 0),
    }[degree]
    plan = ode.plan(method, times=[0, 0.2, 0.3, 0.7, 0.9, 1])

    def field(t, x):
        return ((1 + t**degree) - x) / (1 - t)

    start, offset = exact(0.0), None
    states = list(ode.integrate(field, np.float64(start), plan))
    times = [0.2, 0.3, 0.7, 0.9, 1]  # of the states
    for k in range(degree, len(states)):  # what the first steps got wrong fades as 1 - t
        offset = states[k] - exact(times[k]) if offset is None else offset
        fading = (1 - times[k]) / (1 - times[degree])
        assert states[k] - exact(times[k]) == pytest.approx(offset * fading, abs=1e-12)


@pytest.mark.parametrize(
    "method, count",
    [("euler", 3), ("midpoint", 6), ("heun", 6), ("rk4", 12), ("ab2", 4), ("ab3", 4), ("dpm3", 3)],
)
def test_evaluations_are_counted(method, count):
    calls, plan = [], ode.plan(method, times=[0, 0.5, 0.75, 1])
    solve(lambda t, x: calls.append(t) or x, 1.0, plan)
    assert calls == [evaluation.time for evaluation in plan]
    assert len(calls) == count


@pytest.mark.parametrize("times", [[0, 0.5], [0.1, 1], [0, 0.5, 0.5, 1], [0], [0, math.nan, 1]])
def test_bad_grids(times):
    with pytest.raises(SAMAudioError, match="must increase from 0 to 1"):
        ode.plan("euler", times=times)


@pytest.mark.parametrize("steps", [0, -1, 2.5, True, None, 10_001])
def test_bad_steps(steps):
    with pytest.raises(SAMAudioError, match="whole number, 1 to 10000"):
        ode.plan("euler", steps)


def test_unknown_method():
    with pytest.raises(SAMAudioError, match="'rk45'.*euler, midpoint, heun, rk4"):
        ode.plan("rk45", 4)


@pytest.mark.parametrize("done", [0, 1, 2])
@pytest.mark.parametrize("method", ode.METHODS)
def test_in_place_steps_are_the_same(method, done):
    """The field couples neighbours, and pieces are overwritten while others are still to come. A
    run goes on after `done` steps from copies of what it had then."""
    rng = np.random.default_rng(0)
    mixing, x = rng.normal(size=(12, 12)).astype(np.float32), rng.normal(size=12)
    x = x.astype(np.float32)

    def slopes(y, t):
        slope = np.tanh(mixing @ y) * (1 + t)
        for a in range(0, 12, 5):
            yield a, min(a + 5, 12), slope[a : a + 5]

    plan = ode.plan(method, times=[0, 0.2, 0.7, 0.8, 1])
    *_, expected = ode.integrate(lambda t, y: np.tanh(mixing @ y) * (1 + t), x, plan)
    state, count, kept = x.copy(), 0, []
    for step, (count_now, kept_now) in enumerate(ode.integrate_in_place(slopes, state, plan), 1):
        if step == done:
            resumed, count, kept = state.copy(), count_now, [slope.copy() for slope in kept_now]
    assert np.allclose(state, expected, rtol=1e-5)
    if done:
        list(ode.integrate_in_place(slopes, resumed, plan, count, kept))
        assert np.array_equal(resumed, state)
