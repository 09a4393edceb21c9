"""What a user of the package relies on, beyond the numbers."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import mlx.core as mx
import numpy as np
import pytest
import soundfile
from mlx.utils import tree_map

from benchmarks import parity
from mlx_sam_audio import SAMAudio, SAMAudioError, Span
from mlx_sam_audio.engine import draws

WAVE = np.random.default_rng(0).normal(0, 0.1, 9_001).astype(np.float32)
LONG = np.tile(WAVE, 6)  # 1.1 s
FAST = dict(method="euler", steps=2)


def equal(a, b) -> bool:
    return (
        mx.array_equal(a.target, b.target).item() and mx.array_equal(a.residual, b.residual).item()
    )


def test_a_run_depends_on_its_arguments_alone(tiny):
    first = tiny.separate(WAVE, "dog", seed=3, **FAST)
    mx.random.seed(1)
    state = [np.array(x) for x in mx.random.state]
    tiny.separate(WAVE[:5000], "cat", seed=4, **FAST)
    assert equal(first, tiny.separate(WAVE, "dog", seed=3, **FAST))
    assert all(np.array_equal(a, b) for a, b in zip(state, mx.random.state, strict=True))


def test_the_seed_decides(tiny):
    first = tiny.separate(WAVE, "dog", seed=3, **FAST)
    other = tiny.separate(WAVE, "dog", seed=4, **FAST)
    assert (first.seed, other.seed) == (3, 4)
    assert not equal(first, other)


def test_given_noise_and_message_are_used(tiny):
    noise = draws.noise(tiny.config.codec, 5, [3])
    message = draws.message(tiny.config.codec, [3])
    first = tiny.separate(WAVE, "dog", seed=3, **FAST)
    assert equal(first, tiny.separate(WAVE, "dog", seed=9, noise=noise, message=message, **FAST))
    flipped = tiny.separate(WAVE, "dog", seed=3, message=1 - message, **FAST)
    assert not equal(first, flipped)
    assert parity.relative_error(flipped.target, first.target) < 0.05


def test_without_watermark_the_message_does_not_matter(tiny):
    a = tiny.separate(
        WAVE, "dog", noise=draws.noise(tiny.config.codec, 5, [0]), watermark=False, **FAST
    )
    b = tiny.separate(WAVE, "dog", seed=0, watermark=False, **FAST)
    c = tiny.separate(WAVE, "dog", seed=0, **FAST)
    assert equal(a, b) and not equal(b, c)


@pytest.mark.parametrize("samples", [1, 700, 1920, 1921, 9_001])
def test_the_output_is_as_long_as_the_input(tiny, samples):
    result = tiny.separate(WAVE[:samples], "dog", **FAST)
    assert result.target.shape == result.residual.shape == (samples,)
    assert result.target.dtype == mx.float32 and result.sample_rate == 48_000


def test_channels_are_averaged(tiny):
    stereo = np.stack([WAVE, np.zeros_like(WAVE)])
    assert equal(tiny.separate(stereo, "dog", **FAST), tiny.separate(WAVE / 2, "dog", **FAST))


def test_a_file_is_resampled(tiny, tmp_path):
    t = np.arange(22_050) / 44_100
    soundfile.write(tmp_path / "a.wav", np.sin(2 * np.pi * 440 * t), 44_100, subtype="FLOAT")
    (wave,) = tiny.encode(tmp_path / "a.wav").waves()
    expected = np.sin(2 * np.pi * 440 * np.arange(24_000) / 48_000)
    assert wave.shape == (24_000,)
    assert parity.relative_error(wave[1000:-1000], expected[1000:-1000]) < 1e-3


def test_a_batch_of_equal_lengths_is_its_items(tiny):
    spans = [[Span("+", 0.01, 0.1)], []]
    batch = tiny.separate_batch([WAVE, -WAVE], ["dog", "cat"], spans=spans, seed=5, **FAST)
    for i, sign in enumerate((1, -1)):
        alone = tiny.separate(
            sign * WAVE, ["dog", "cat"][i], spans=spans[i], seed=batch[i].seed, **FAST
        )
        assert parity.relative_error(batch[i].target, alone.target) < 1e-4
        assert batch[i].spans == tuple(spans[i])


def test_static_work_is_done_once(fresh_tiny, monkeypatch):
    calls = []
    network = fresh_tiny.network
    condition, encode = network.condition, network.audio_codec.encode
    monkeypatch.setattr(network, "condition", lambda *a: calls.append("c") or condition(*a))
    monkeypatch.setattr(network.audio_codec, "encode", lambda x: calls.append("e") or encode(x))
    result = fresh_tiny.separate(WAVE, "dog", method="midpoint", steps=4)
    assert sorted(calls) == ["c", "e"] and result.evaluations == 8


def test_progress_and_stages(tiny):
    seen = []
    result = tiny.separate(WAVE, "dog", steps=3, progress=seen.append)
    solved = [(now.done, now.total) for now in seen if now.stage == "solve"]
    assert solved == [(1, 4), (2, 4), (3, 4), (4, 4)]  # one more in the first step
    assert list(dict.fromkeys(now.stage for now in seen)) == ["load", "encode", "solve", "decode"]
    assert set(result.seconds) == {"load", "encode", "solve", "decode"}
    fractions = [now.fraction for now in seen]
    assert fractions == sorted(fractions) and (fractions[0], fractions[-1]) == (0, 1)
    assert all(now.seconds_left >= 0 for now in seen[2:]) and seen[-1].seconds_left == 0


def test_subtracted_residual(tiny):
    model, other = (tiny.separate(WAVE, "dog", residual=r, **FAST) for r in ("model", "subtract"))
    assert parity.relative_error(other.target, model.target) < 1e-6
    assert np.array_equal(np.array(other.residual), WAVE - np.array(other.target))
    assert parity.relative_error(other.residual, model.residual) > 0.1
    with pytest.raises(SAMAudioError, match="residual must be one of model, subtract"):
        tiny.separate(WAVE, "dog", residual="none")


def test_one_evaluation_is_traced_once(fresh_tiny, monkeypatch):
    """Neither steps, nor times, nor windows compile anything anew."""
    traced, network = [], fresh_tiny.network

    def velocity(x, moment, condition):
        traced.append((x.shape, moment.keys.shape))
        return type(network).velocity(network, x, moment, condition)

    model = SAMAudio(fresh_tiny.config, network, fresh_tiny.tokenizer)
    model.velocity = mx.compile(velocity, inputs=network)
    wave = np.resize(WAVE, 60 * 1920)
    for description, options in (("dog", FAST), ("dog", dict(steps=5, seed=1)), ("cats", FAST)):
        model.separate_long(wave, description, window=0.8, overlap=0.24, **options)
    assert len(traced) == len(set(traced))


def test_save(tiny, tmp_path):
    result = tiny.separate(WAVE, "dog", **FAST)
    result = replace(result, target=result.target / 2, residual=result.residual / 2)
    assert result.save(tmp_path / "new" / "t.wav", tmp_path / "new" / "r.wav") == []
    for name, stem in (("t", result.target), ("r", result.residual)):
        samples, rate = soundfile.read(tmp_path / "new" / f"{name}.wav", dtype="float32")
        assert rate == 48_000 and np.array_equal(samples, np.array(stem))


@pytest.mark.parametrize(
    "audio, message",
    [
        (np.zeros(0), "holds no samples"),
        (np.full(100, np.nan), "NaN or infinite"),
        (np.full((2, 100), np.inf), "NaN or infinite"),
        (np.zeros((3, 2, 100)), "must be"),
        (np.zeros((100, 2)), r"\(T,\) or \(channels, T\)"),
        ("nowhere.wav", "there is no file nowhere.wav"),
        (np.zeros(1920 * 10_001, np.float32), "the 400 s the model takes in one piece"),
    ],
)
def test_bad_audio(tiny, audio, message):
    with pytest.raises(SAMAudioError, match=message):
        tiny.separate(audio, "dog", **FAST)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(description=""), "prompt is empty"),
        (dict(spans=[Span("+", 0.1, 2)]), "ends after the audio"),
        (dict(noise=np.zeros((1, 4, 16))), r"noise must be \(1, 5, 16\)"),
        (dict(noise=np.full((1, 5, 16), np.nan)), "noise holds NaN"),
        (dict(message=np.zeros((1, 16))), r"message must be \(2, 16\)"),
        (dict(message=np.full((2, 16), 2)), "zeros and ones"),
        (dict(message=np.zeros((2, 16)), watermark=False), "no watermark to carry it"),
        (dict(seed=-1), "seed must be"),
        (dict(seed=1.5), "seed must be"),
        (dict(method="magic"), "unknown method"),
        (dict(steps=0), "steps must be"),
    ],
)
def test_bad_options(tiny, options, message):
    with pytest.raises(SAMAudioError, match=message):
        tiny.separate(WAVE, **{"description": "dog", **options})


def test_a_batch_must_match(tiny):
    with pytest.raises(SAMAudioError, match="as many descriptions"):
        tiny.separate_batch([WAVE], ["dog", "cat"])


def test_the_import_is_light():
    heavy = "torch transformers mlx_lm matplotlib av huggingface_hub"
    code = f"import sys, mlx_sam_audio; print([m for m in '{heavy}'.split() if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def in_a_thread(function):
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(function).result()


def test_any_thread_may_use_a_model_and_its_results(tiny_folder):
    model, options = SAMAudio.from_pretrained(tiny_folder), dict(steps=2, window=0.8, overlap=0.24)
    for make in (partial(model.separate, steps=2), partial(model.separate_long, **options)):
        result = in_a_thread(partial(make, LONG, "dog"))
        assert np.isfinite(np.array(result.target) + np.array(result.residual)).all()
    pieces = iter(model.stream(LONG, "dog", **options))
    count = 0
    while (piece := in_a_thread(partial(next, pieces, None))) is not None:
        count += len(np.array(piece.target))
    assert count == len(LONG)


def test_float16_is_wide_enough_for_the_text(fresh_tiny):
    encoder = fresh_tiny.network.text_encoder
    inputs = mx.array([[5, 6, 1]]), mx.ones((1, 3), mx.bool_)
    for block in encoder.blocks:
        block.wo.weight = block.wo.weight * 3e4
    expected = encoder(*inputs)
    encoder.set_dtype(mx.float16)
    encoder.update(tree_map(lambda x: mx.clip(x, -6e4, 6e4), encoder.parameters()))
    assert parity.relative_error(encoder(*inputs), expected) < 0.05


def test_damaged_codecs_are_refused(fresh_tiny):
    decoder = fresh_tiny.network.audio_codec.decoder
    decoder.update(tree_map(lambda x: x * mx.nan, decoder.parameters()))
    for options in ({}, dict(window=0.8, overlap=0.24)):
        make = fresh_tiny.separate_long if options else fresh_tiny.separate
        with pytest.raises(SAMAudioError, match="the codec's output is not finite"):
            make(LONG, "dog", steps=2, **options)


def test_what_is_not_finite_is_refused(fresh_tiny):
    fresh_tiny.velocity = lambda x, *rest: x * mx.nan
    for options in ({}, dict(window=0.8, overlap=0.24)):
        make = fresh_tiny.separate_long if options else fresh_tiny.separate
        with pytest.raises(SAMAudioError, match="not finite: convert the model with --dtype"):
            make(LONG, "dog", steps=2, **options)
