"""Sound activity against the original's, what each ranker prefers, and mixes of them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soxr

from mlx_sam_audio import MaskedVideo, SAMAudioError, Span
from mlx_sam_audio.engine import networks
from mlx_sam_audio.ranking import activity
from mlx_sam_audio.ranking.clap import CLAP
from mlx_sam_audio.ranking.imagebind import ImageBind
from mlx_sam_audio.ranking.judge import Judge
from mlx_sam_audio.ranking.rank import parse, ranker

ORIGINAL = Path(__file__).parent / "golden" / "sound_activity"
FROM_GOLDENS = {"case": lambda meta: meta["cases"]}
RATE = 48_000


@pytest.fixture(scope="module")
def models(converted) -> dict[str, Path]:
    return {name: converted(name) for name in ("clap", "judge")}


@pytest.fixture(scope="module")
def sound() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three candidates, their residuals and the mixture of one second; the second fits best."""
    random = np.random.default_rng(0)
    target, rest = random.normal(0, 0.1, (2, RATE)).astype(np.float32)
    target[: RATE // 2] = 0
    gains = np.array([[0.3], [1], [0.7]], np.float32)
    return gains * target, np.stack([rest] * 3), target + rest


@pytest.mark.parity
def test_sixteen_bits(golden):
    assert np.array_equal(activity.to_pcm(np.array(golden["input.rough"])), golden["pcm.16bit"])


@pytest.mark.parity
def test_activity(golden, meta, case):
    wave, facts = np.array(golden[f"input.{case}"], np.float32) / 32768, meta["cases"][case]
    rate = facts["sample_rate"]
    low = activity.resample(activity.to_pcm(wave), rate)
    assert np.array_equal(low, golden[f"resampled.{case}"])
    assert activity.peak(low) == pytest.approx(facts["peak_rms"], abs=1e-6)
    for result in facts["results"]:
        relative = result["threshold_mode"] == "rel_to_max"
        options = dict(threshold=result["sil_threshold"], relative=relative)
        assert activity.activity(wave, rate, **options).tolist() == result["spans"]
        for metric in activity.METRICS:
            scores = [
                activity.agreement(wave, rate, [x[1:] for x in spans], metric=metric, **options)
                for spans in meta["reference_spans"]
            ]
            assert scores == pytest.approx(result[metric], abs=1e-6)


def test_an_unknown_metric():
    with pytest.raises(SAMAudioError, match="no metric 'f1': choose from iou, recall, precision"):
        activity.agreement(np.zeros(RATE), RATE, [(0, 1)], metric="f1")


def test_what_adds_up_to_the_mixture(sound):
    candidates, residuals, mixture = sound
    known = dict(sample_rate=RATE, description="noise", spans=())
    scores = ranker("consistency")(*sound, **known)["score"]
    assert scores[1] > 60 and scores[1] > scores[2] > scores[0]
    target = candidates[1]
    power = np.square([mixture, 0.7 * target, 0.3 * target], dtype=np.float64).sum(axis=1)
    expected = 10 * np.log10(power[0] / power[1:])
    assert np.allclose(scores[[0, 2]], expected, atol=1e-3)


def test_activity_counts_where_spans_are_given(sound):
    _, residuals, mixture = sound
    target = mixture - residuals[0]
    swapped = np.stack([target, residuals[0]])  # both add up to the mixture
    spans = [Span("+", 0.5, 1.0), Span("-", 0.0, 0.5)]
    given = dict(sample_rate=RATE, spans=spans)
    alike, scores, agreement = (
        ranker(name)(swapped, swapped[::-1], mixture, **known)["score"]
        for name, known in (("consensus", {}), ("consensus", given), ("activity", given))
    )
    assert agreement[0] > 0.9 and agreement[1] < 0.6
    assert np.allclose(scores, alike + agreement)


def test_consensus_is_the_mean_correlation():
    a, b = np.eye(2, 100, dtype=np.float32)
    candidates = np.stack([a, 0.6 * a + 0.8 * b, 2 * b, 0 * a])
    scores = ranker()(candidates, candidates, a)["score"]
    assert np.allclose(scores, [0.6 / 3, 1.4 / 3, 0.8 / 3, 0], atol=1e-6)
    assert ranker()(candidates[:1], candidates[:1], a)["score"] == 0


def test_clap_and_judge(sound, models):
    candidates, _, mixture = sound
    given = dict(sample_rate=RATE, description="a dog")
    clap = CLAP.from_pretrained(models["clap"])(candidates, "a dog")
    judged = Judge.from_pretrained(models["judge"])(mixture, candidates, "a dog")
    overall = np.array([scores.overall for scores in judged])
    assert np.array_equal(ranker("clap", models)(*sound, **given)["score"], clap)
    alone = ranker("judge", models)(*sound, **given)
    assert np.array_equal(alone["score"], overall)
    expected = 5 * clap.astype(float) + overall
    for kind in ("clap:5, judge:1", {"judge": 1, "clap": 5}):
        mix = ranker(kind, models)(*sound, **given)
        assert np.allclose(mix["score"], expected, atol=1e-5)
        assert np.array_equal(mix["clap"], clap)
        for name in ("overall", "recall", "precision", "faithfulness"):
            row = [getattr(scores, name) for scores in judged]
            assert np.array_equal(mix[f"judge {name}"], row)
            assert np.array_equal(alone[f"judge {name}"], row)


def test_memory_is_planned_for_models_that_rank(toy, models, monkeypatch):
    def planned(candidates: int) -> int:
        return toy.prepare(wave, "a dog", candidates=candidates, **options).memory.bytes

    wave, mix = np.ones(400, np.float32) / 10, ranker("clap:5,judge:1,consensus:1", models)
    options = dict(method="euler", steps=1, ranker=mix)
    assert planned(2) - planned(1) > networks.weight_bytes(mix.networks())


def test_another_rate(sound, models):
    candidates, residuals, mixture = (x[..., ::3] for x in sound)
    given = dict(sample_rate=RATE // 3, description="a dog")
    scores = ranker("judge", models)(candidates, residuals, mixture, **given)["score"]
    waves = [
        soxr.resample(x, RATE // 3, RATE, quality="VHQ") for x in np.stack([mixture, *candidates])
    ]
    judge = Judge.from_pretrained(models["judge"])
    expected = [x.overall for x in judge(waves[0], waves[1:], "a dog")]
    assert np.allclose(scores, expected, rtol=1e-4)


def test_models_load_on_first_use(sound, store):
    for name in ("clap", "judge"):
        score = ranker(name)
        with pytest.raises(SAMAudioError, match=f"run `python -m convert --hf-path {name}`"):
            score(*sound, sample_rate=RATE, description="a dog")


@pytest.mark.parametrize(
    "mix, message",
    [
        ("taste", "no ranker taste: choose from consensus, consistency, judge, clap, activity"),
        ("", "no ranker without a name"),
        ("clap:5,judge:x", 'write "judge" or "clap:5,judge:1"'),
        ("clap:5:1", 'write "judge" or "clap:5,judge:1"'),
        ({"clap": float("nan")}, "is no ranker: give names with finite weights"),
        ({}, "is no ranker"),
    ],
)
def test_mixes_that_cannot_be(mix, message):
    with pytest.raises(SAMAudioError, match=message):
        ranker(mix)


def test_weights():
    assert parse("clap:5, judge") == {"clap": 5, "judge": 1}


def test_models_of_one_name_in_two_folders(models, tmp_path, monkeypatch):
    def network(place: str):
        return ranker("judge", {"judge": place}).networks()[0]

    found = {}
    for store in ("one", "two"):
        shutil.copytree(models["judge"], tmp_path / store / "judge")
        monkeypatch.setenv("SAM_AUDIO_HOME", str(tmp_path / store))
        monkeypatch.chdir(tmp_path / store)
        found[store] = network("judge")
        assert network("./judge") is found[store]
    monkeypatch.setenv("SAM_AUDIO_HOME", str(tmp_path / "one"))
    monkeypatch.chdir(tmp_path)
    assert network("judge") is found["one"] is not found["two"] is network("two/judge")


def test_a_model_for_no_ranker():
    with pytest.raises(SAMAudioError, match="no model for activity: choose from clap, judge"):
        ranker("activity", {"activity": "x"})


def test_a_function_is_a_ranker():
    def louder(candidates, residuals, mixture, **known):
        return np.abs(candidates).max(axis=1)

    assert ranker(louder) is louder


def test_activity_needs_spans(sound):
    with pytest.raises(SAMAudioError, match='"activity" needs "\\+" spans'):
        ranker("activity")(*sound, sample_rate=RATE, spans=[Span("-", 0, 1)])


def test_the_picture_decides(converted, sound):
    folder = converted("imagebind")
    frames = np.random.default_rng(0).integers(0, 256, (30, 3, 64, 48), dtype=np.uint8)
    video = MaskedVideo(frames, mask=(0, 0, 20, 20))
    known = dict(sample_rate=RATE, description="", spans=())
    score = ranker("imagebind", {"imagebind": folder})
    expected = ImageBind.from_pretrained(folder)(sound[0], RATE, video)
    assert np.allclose(score(*sound, video=video, **known)["score"], expected, atol=1e-6)
    with pytest.raises(SAMAudioError, match="needs a video"):
        score(*sound, **known)
