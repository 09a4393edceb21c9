"""Candidates, rankers, presence: what holds whatever the weights, and what exact sounds show."""

import mlx.core as mx
import numpy as np
import pytest

from benchmarks.parity import relative_error
from mlx_sam_audio import SAMAudioError
from mlx_sam_audio.engine import memory, presence
from mlx_sam_audio.ranking import rank

RATE, HOP = 1000, 8
NOISE = np.random.default_rng(0).standard_normal(400).astype(np.float32)
FEW = dict(method="euler", steps=2)


def test_a_candidate_is_the_run_with_its_seed(toy):
    result = toy.separate(NOISE, "dog", candidates=3, seed=5, **FEW)
    assert [c.seed for c in result.candidates] == [5, 6, 7]
    for candidate in result.candidates:
        alone = toy.separate(NOISE, "dog", seed=candidate.seed, **FEW)
        assert relative_error(candidate.target, alone.target) < 1e-5
        assert relative_error(candidate.residual, alone.residual) < 1e-5
    assert relative_error(result.candidates[0].target, result.candidates[1].target) > 0.01


def test_the_best_wins(toy):
    def rank_by(targets, residuals, mixture, *, sample_rate, description, spans, video):
        assert targets.shape == residuals.shape == (3, 400) and sample_rate == RATE
        assert np.array_equal(mixture, NOISE) and description == "dog"
        return np.array([1, 3, 2])

    result = toy.separate(NOISE, "dog", candidates=3, ranker=rank_by, **FEW)
    assert (result.seed, result.score) == (1, 3)
    assert [c.score for c in result.candidates] == [1, 3, 2]


def test_a_subtracted_residual_is_the_one_that_is_measured(toy):
    options = dict(seed=3, residual="subtract", **FEW)
    alone = toy.separate(NOISE, "dog", **options)
    first = toy.separate(NOISE, "dog", candidates=2, **options).candidates[0]
    levels = [[row.level for row in one.presence] for one in (alone, first)]
    assert np.allclose(*levels, atol=1e-3)


def test_what_a_score_consists_of(toy):
    def rank_by(*sounds, **known):
        return {"overall": np.array([2, 1]), "recall": np.array([3, 4])}

    result = toy.separate(NOISE, "dog", candidates=2, ranker=rank_by, **FEW)
    assert (result.seed, result.score, result.scores) == (0, 2, {"overall": 2, "recall": 3})
    assert result.candidates[1].scores == {"overall": 1, "recall": 4}


def test_memory_decides_how_many_are_solved_at_once(toy, monkeypatch):
    batches = []
    velocity = toy.velocity
    monkeypatch.setattr(
        toy, "velocity", lambda x, *args: batches.append(len(x)) or velocity(x, *args)
    )
    at_once = toy.separate(NOISE, "dog", candidates=4, **FEW)
    least = toy.prepare(NOISE, "dog", candidates=4, **FEW).memory
    least = least.bytes - (least.windows - 1) * memory.solver_bytes(toy.config, 50)
    by_one = toy.separate(NOISE, "dog", candidates=4, max_memory=least, **FEW)
    assert batches[:2] == [4, 4] and batches[2:] == [1] * 8
    assert relative_error(at_once.target, by_one.target) < 1e-5


@pytest.mark.parametrize(
    "scores, count", [([[5, 1]], 2), ([[5, 5], [5, 5, 1, 9]], 4), ([[5] * 2, [5] * 4, [5] * 8], 8)]
)
def test_auto_goes_on_while_the_best_two_are_close(toy, scores, count):
    given = iter(scores)
    result = toy.separate(
        NOISE, "dog", candidates="auto", ranker=lambda *a, **k: np.array(next(given)), **FEW
    )
    assert len(result.candidates) == count
    assert [c.score for c in result.candidates] == scores[-1]


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(candidates=0), "1 to 64"),
        (dict(candidates="many"), "1 to 64"),
        (
            dict(candidates=2, ranker="taste"),
            "no ranker taste: choose from consensus, consis",
        ),
        (dict(candidates=2, ranker="judge:high"), 'write "judge"'),
        (dict(candidates=2, noise=mx.zeros((1, 50, 8))), "belong to one candidate"),
        (dict(candidates=2, ranker=lambda *a, **k: np.zeros(3)), "the ranker returned"),
        (dict(candidates=2, ranker=lambda *a, **k: "ab"), "the ranker returned 'ab' as score, not"),
        (dict(candidates=2, ranker=lambda *a, **k: np.array([1, np.nan])), "the ranker returned"),
        (dict(candidates=2, ranker=lambda *a, **k: {"x": np.zeros(3)}), "as x of 2 candidates"),
        (dict(candidates=2, ranker=lambda *a, **k: {}), "returned no scores"),
    ],
)
def test_bad_options(toy, options, message):
    with pytest.raises(SAMAudioError, match=message):
        toy.separate(NOISE, "dog", **options, **FEW)


@pytest.mark.parametrize("ranker", ["activity", {"consensus": 1, "imagebind": 1}])
def test_what_a_ranker_lacks_is_said_before_anything_is_computed(toy, ranker):
    with pytest.raises(SAMAudioError, match='"(activity|imagebind)" needs'):
        toy.prepare(NOISE, "dog", candidates=2, ranker=ranker, **FEW)
    toy.prepare(NOISE, "dog", candidates=2, ranker="activity", predict_spans=max, **FEW)


def test_consistency():
    mixture = np.sin(np.arange(1000, dtype=np.float32))
    targets = np.stack([0.5 * mixture, 0.5 * mixture, 0 * mixture])
    residuals = np.stack([0.5 * mixture, 0.4 * mixture, 0 * mixture])
    scores = rank.ranker("consistency")(targets, residuals, mixture)["score"]
    assert scores[0] > 100 and np.allclose(scores[1:], [20, 0], atol=1e-3)
    double = rank.ranker({"consistency": 2})(targets, residuals, mixture)["score"]
    assert np.allclose(double, 2 * scores)


def windows_of(levels: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Target and residual of one window for each level of the target, in dB under the mixture."""
    tone = np.sin(2 * np.pi * 100 * np.arange(RATE) / RATE).astype(np.float32)
    target = np.concatenate([10 ** (x / 20) * tone for x in levels])
    return target, np.tile(tone, len(levels)) - target


def test_presence_is_the_level_under_the_mixture():
    target, residual = windows_of([-3, -30, -6])
    stems = np.stack([target, residual])[:, None, None, :2500]
    pieces = [stems[..., i : i + 333] for i in range(0, 2500, 333)]
    windows = list(presence.measured(pieces, presence.Meter(RATE)))
    rows = [window.presences[0] for window in windows]
    assert [(r.start, r.end) for r in rows] == [(0, 1), (1, 2), (2, 2.5)]
    assert np.allclose([r.level for r in rows], [-3, -30, -6], atol=1e-3)
    assert np.array_equal(np.concatenate([window[1:] for window in windows], axis=-1), stems)
    assert presence.absences(rows) == [(1, 2)]


def test_the_gate_silences_what_is_absent():
    target, residual = windows_of([-3, -30, -40, -6])
    windows = presence.gated([(target[None, None], residual[None, None])], presence.Meter(RATE))
    gated = np.concatenate([window[1:] for window in windows], axis=-1)[:, 0, 0]
    assert np.allclose(gated.sum(axis=0), target + residual, atol=1e-6)
    fade = round(presence.FADE * RATE)
    quiet = slice(RATE + fade, 3 * RATE - fade)
    assert not gated[0, quiet].any() and np.array_equal(gated[0, :RATE], target[:RATE])
    assert np.array_equal(gated[0, 3 * RATE :], target[3 * RATE :])
    ramp = gated[0, RATE : RATE + fade] / (target[RATE : RATE + fade] + 1e-9)
    assert ramp[1] > 0.99 and abs(ramp[-2]) < 0.01


@pytest.mark.parametrize("window", [0.4, 10])  # long, and in one piece
def test_a_gate_in_every_path(toy, monkeypatch, window):
    monkeypatch.setattr(presence, "WINDOW", 0.1)
    options = dict(window=window, overlap=0.1, gate=True, absent=1000, **FEW)
    long = toy.separate_long(NOISE, "dog", **options)
    chunks = list(toy.stream(NOISE, "dog", **options))
    streamed = np.concatenate([np.array(chunk.target) for chunk in chunks])
    (batched,) = toy.separate_batch([NOISE], ["dog"], gate=True, absent=1000, **FEW)
    for target in (np.array(long.target), streamed, np.array(batched.target)):
        assert target.shape == (400,) and not target.any()
    assert [row.end for row in long.presence] == [0.1, 0.2, 0.3, 0.4]
    assert np.array(long.residual).any()
