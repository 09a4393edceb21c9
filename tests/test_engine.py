"""One engine: whatever the method and the length, the same options do the same."""

import itertools
import os
import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest
import soundfile
from clips import clip

from benchmarks.parity import relative_error
from mlx_sam_audio import Cancelled, SAMAudio, SAMAudioError, Span
from mlx_sam_audio.media import audio
from mlx_sam_audio.models.sam_audio import Network

WAVE = np.random.default_rng(0).normal(0, 0.1, 1_600).astype(np.float32)
SHORT = WAVE[:350]
FEW = dict(method="ab3", steps=3)
LONG = dict(window=0.4, overlap=0.1, **FEW)
BEEPS = (Span("+", 0.1, 0.2),)


def find(latents, descriptions, samples, **windows):
    return [BEEPS] * len(descriptions)


def everything(model: SAMAudio, sound, **options) -> dict:
    """What each method makes of it."""
    chunks = list(model.stream(sound, "dog", **LONG, **options))
    return {
        "separate": model.separate(sound, "dog", **FEW, **options).target,
        "separate_long": model.separate_long(sound, "dog", **LONG, **options).target,
        "stream": mx.concatenate([chunk.target for chunk in chunks]),
        "separate_batch": model.separate_batch([sound], ["dog"], **FEW, **options)[0].target,
        "prepare": model.prepare(sound, "dog", **LONG, **options).results()[0].target,
    }


def test_a_mixture_is_encoded_once_for_any_prompt(toy, monkeypatch):
    expected = everything(toy, WAVE)
    mixture = toy.encode(WAVE)
    assert (mixture.samples, len(mixture)) == (1600, 200) and mixture.encoded
    monkeypatch.setattr(toy.network.audio_codec, "encode", None)
    found = everything(toy, mixture)
    assert all(mx.array_equal(found[name], expected[name]) for name in expected)
    assert toy.predict_spans(mixture, "dog", find) == BEEPS
    assert toy.encode(mixture) is mixture


def test_a_shorter_mixture_of_a_batch_is_padded_as_its_samples_are(toy):
    expected, seen = toy.separate_batch([WAVE, SHORT], ["dog", "cat"], **FEW), []
    encoded = [toy.encode(WAVE), toy.encode(SHORT)]
    found = toy.separate_batch(encoded, ["dog", "cat"], progress=seen.append, **FEW)
    assert max(now.fraction for now in seen) == 1
    for one, other in zip(expected, found, strict=True):
        assert mx.array_equal(one.target, other.target)


def test_another_models_mixture_is_refused(toy):
    other = SAMAudio(toy.config, Network(toy.config), toy.tokenizer)
    with pytest.raises(SAMAudioError, match="encoded by another model"):
        toy.separate(other.encode(SHORT), "dog")


def test_a_mixture_is_no_array(toy):
    with pytest.raises(SAMAudioError, match="noise must be an array of numbers"):
        toy.separate(WAVE, "dog", noise=toy.encode(WAVE))


def test_candidates_of_any_length(toy):
    seen = []

    def rank(targets, residuals, mixture, *, spans, **known):
        seen.append((targets.shape, mixture.shape, spans))
        return np.arange(len(targets))

    options = dict(LONG, predict_spans=find, residual="subtract", gate=True)
    result = toy.separate_long(WAVE, "dog", candidates=3, ranker=rank, seed=4, **options)
    assert seen == [((3, 1600), (1600,), BEEPS)] and result.seed == 6
    for one in result.candidates:
        alone = toy.separate_long(WAVE, "dog", seed=one.seed, **options)
        assert relative_error(one.target, alone.target) < 1e-5
        assert [row.absent for row in one.presence] == [row.absent for row in alone.presence]
    assert np.allclose(np.array(result.target + result.residual), WAVE, atol=1e-6)


@pytest.mark.parametrize("method", ["stream", "separate_batch"])
def test_what_a_method_cannot_do_is_refused(toy, method):
    sound = ([WAVE], ["dog"]) if method == "separate_batch" else (WAVE, "dog")
    sound = ([WAVE] * 2, ["dog"] * 2) if method == "separate_batch" else sound
    call = getattr(toy, method)
    with pytest.raises(SAMAudioError, match="has one candidate: use separate"):
        call(*sound, candidates=2)
    wrong = dict(resume="state") if method == "stream" else dict(window=0.4, overlap=0.1)
    with pytest.raises(SAMAudioError, match="cannot be resumed|leave out the window"):
        call(*sound, **wrong)


METHODS = ("separate", "separate_long", "stream", "separate_batch", "prepare", "encode")


def called(model: SAMAudio, method: str, **control) -> None:
    """Calls a method that takes long enough, to its end."""
    call, options = getattr(model, method), {} if method == "encode" else LONG
    if method in ("separate", "separate_batch"):
        options = FEW
    if method == "separate_batch":
        call([WAVE, SHORT], ["dog", "cat"], **options, **control)
    else:
        made = call(WAVE, *["dog"] * (method != "encode"), **options, **control)
        list(made if method in ("stream", "prepare") else ())


@pytest.mark.parametrize("method", METHODS)
def test_progress_of_every_method(toy, method):
    seen = []
    called(toy, method, progress=seen.append)
    fractions = [now.fraction for now in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    stages = {now.stage for now in seen}
    assert stages == ({"encode"} if method == "encode" else {"load", "encode", "solve", "decode"})
    for stage in stages:
        counts = [(now.done, now.total) for now in seen if now.stage == stage]
        assert counts[-1][0] == counts[-1][1] and counts == sorted(counts)
    assert seen[-1].seconds_left == 0


@pytest.mark.parametrize("method", METHODS)
def test_a_call_ends_soon_after_it_is_cancelled(toy, method):
    """Between two questions there is at most one evaluation, or one chunk of the codec."""
    polls, seen = [], []
    called(toy, method, cancel=lambda: polls.append(len(seen)), progress=seen.append)
    assert set(range(1, len(seen) + 1)) <= set(polls)
    for stop in range(1, len(polls) + 1, 5):
        calls = itertools.count(1)
        cancel = (count >= stop for count in calls).__next__
        with pytest.raises(Cancelled):
            called(toy, method, cancel=cancel)
        assert next(calls) == stop + 1


@pytest.mark.parametrize("options", [LONG, FEW, dict(LONG, candidates="auto"), dict(LONG, seed=3)])
def test_a_run_that_was_cancelled_goes_on(toy, tmp_path, options):
    state, ranks = tmp_path / "state", dict(ranker=lambda targets, *x, **k: np.ones(len(targets)))
    options = {**options, **ranks}
    whole = toy.separate(WAVE, "dog", **options)
    seen = []
    toy.separate(WAVE, "dog", progress=seen.append, **options)
    solves = [i for i, now in enumerate(seen) if now.stage == "solve"]
    stopped = []
    with pytest.raises(Cancelled):
        toy.separate(
            WAVE,
            "dog",
            resume=state,
            progress=stopped.append,
            cancel=lambda: len(stopped) > solves[-1],
            **options,
        )
    assert state.exists()
    seen = []
    found = toy.separate(
        WAVE, "dog", resume=state, max_memory=2**27, progress=seen.append, **options
    )
    assert mx.array_equal(found.target, whole.target)
    assert len([now for now in seen if now.stage == "solve"]) < len(solves) / 2
    assert not list(tmp_path.iterdir())


def test_a_run_is_made_once(toy):
    run = toy.prepare(SHORT, "dog", **FEW)
    with pytest.raises(SAMAudioError, match="not complete"):
        run.facts.report()
    assert sum(len(chunk.target) for chunk in run) == len(SHORT)
    with pytest.raises(SAMAudioError, match="made once"):
        list(run)
    assert run.facts.report()["windows"] == 1


def test_a_run_starts_over_if_it_is_told(toy, tmp_path):
    state = tmp_path / "state"
    state.touch()  # cut off where a disk was full
    with pytest.raises(SAMAudioError, match="state is damaged"):
        toy.separate(SHORT, "dog", resume=state, **FEW)
    toy.separate(SHORT, "dog", resume=state, restart=True, **FEW)
    assert not state.exists()


def test_the_plan_that_is_told_is_the_plan_that_is_used(toy, tmp_path):
    """Where a header does not tell the length, too; memory is planned for each candidate."""
    path, sound = tmp_path / "a.mp4", np.random.default_rng(0).normal(0, 0.1, 96_000)
    clip(path, count=30, rate=15, sound=sound.astype(np.float32))
    run, one = (toy.prepare(path, "dog", candidates=n, **LONG) for n in (3, 1))
    assert audio.length(path, toy.sample_rate) is None
    assert run.samples == len(audio.read(path, toy.sample_rate)) and len(run.windows.starts) == 7
    assert run.memory.windows == 8 and run.memory.bytes > one.memory.bytes + 8 * run.samples
    result = one.results()[0]
    assert (result.samples, result.windows) == (run.samples, 7)
    assert result.estimated_memory == one.memory.bytes


@pytest.mark.parametrize("rate", [1_000, 8_000, 11_025, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "ogg"])
def test_samples_are_counted_as_they_are_read(tmp_path, rate, kind):
    if kind == "mp3" and rate in (1_000, 96_000):
        return
    path = tmp_path / f"a.{kind}"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 12_347), rate)
    for wanted in (16_000, 48_000):
        assert audio.Recording(path, wanted).samples == len(audio.read(path, wanted))


def test_importing_touches_nothing(tmp_path):
    """As an app without a terminal does it: no output, thread, file, stream, seed or device."""
    code = """
import os, sys, threading
sys.stdout = sys.stderr = None
import mlx.core as mx
state = mx.random.state[0].tolist(), mx.default_device(), mx.default_stream(mx.cpu)
import mlx_sam_audio
from mlx_sam_audio import SAMAudio, Settings, Span, MaskedVideo, Mixture, Progress, Separation
import mlx_sam_audio.separate, mlx_sam_audio.judge
same = state == (mx.random.state[0].tolist(), mx.default_device(), mx.default_stream(mx.cpu))
os._exit(0 if same and threading.active_count() == 1 else 1)
"""
    environment = {**os.environ, "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert not list(tmp_path.iterdir())
