"""What a run takes in memory is known before, and the work is cut to fit."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from benchmarks import parity
from mlx_sam_audio import SAMAudioError
from mlx_sam_audio.engine import memory, networks

WAVE = np.random.default_rng(0).normal(0, 0.1, 60 * 1920).astype(np.float32)


@pytest.mark.parametrize(
    "given, count",
    [("8GB", 2**33), ("512 MB", 2**29), ("1.5g", 3 * 2**29), ("2GiB", 2**31), ("1T", 2**40)],
)
def test_amounts(given, count):
    assert memory.parse(given) == count


@pytest.mark.parametrize("given", ["", "much", "-1GB", "0", "8XB", "8GB please"])
def test_no_amounts(given):
    with pytest.raises(SAMAudioError, match="no amount of memory"):
        memory.parse(given)


@pytest.mark.parametrize("seconds", [1, 2.4])
def test_a_run_stays_below_the_estimate(tiny, seconds):
    wave = WAVE[: round(seconds * 48_000)]
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    tiny.separate(wave, "dog", steps=4)
    weights = networks.weight_bytes([tiny.network])
    estimate = tiny.prepare(wave, "dog", window=10).memory.bytes - weights
    assert mx.get_peak_memory() - before < estimate


def test_less_memory_means_smaller_pieces_and_the_same_result(tiny):
    options = dict(window=0.8, overlap=0.24, steps=2)
    plenty = tiny.prepare(WAVE, "dog", **options).memory
    limit = plenty.bytes - 20 * memory.codec_bytes(tiny.config)
    tight = tiny.prepare(WAVE, "dog", max_memory=limit, **options).memory
    assert tight.frames < plenty.frames and tight.bytes <= limit
    whole = tiny.separate_long(WAVE, "dog", **options)
    cut = tiny.separate_long(WAVE, "dog", max_memory=limit, **options)
    assert parity.relative_error(cut.target, whole.target) < 1e-4


@pytest.mark.parametrize(
    "told", [{"max_recommended_working_set_size": 90}, {"total_memory": 100, "free_memory": 50}]
)
def test_a_gpu_offers_what_metal_recommends_and_most_of_a_card(told, monkeypatch):
    monkeypatch.setattr(memory, "on_cpu", lambda: False)
    monkeypatch.setattr(mx, "device_info", lambda: {"device_name": "a GPU", **told})
    assert memory.machine() == 90


def test_scores_are_written_out_on_cuda_in_32_bits(tiny, monkeypatch):
    half = replace(tiny.config, dtype="float16")
    assert memory.writes_scores(half) == memory.on_cpu()
    monkeypatch.setattr(memory, "on_cpu", lambda: False)
    monkeypatch.setattr(mx.metal, "is_available", lambda: False)
    assert memory.writes_scores(tiny.config) and not memory.writes_scores(half)
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    assert not memory.writes_scores(tiny.config)


def test_what_cannot_fit_is_refused_first(tiny, monkeypatch):
    monkeypatch.setattr(tiny.network.audio_codec, "encode", None)  # nothing heavy may start
    message = "needs .* MiB of memory, and there are 4 MiB: the weights take .* smaller or quant"
    with pytest.raises(SAMAudioError, match=message):
        tiny.separate(WAVE, "dog", max_memory=4 * 2**20)
    with pytest.raises(SAMAudioError, match=message):
        tiny.separate_long(WAVE, "dog", window=0.8, overlap=0.24, max_memory=4 * 2**20)
