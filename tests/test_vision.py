"""The vision encoder and what leads to it compute what the PyTorch reference computes."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from benchmarks.parity import TINY, Golden, relative_error
from convert.command import convert
from mlx_sam_audio import SAMAudio, SAMAudioError, frames, load, manifest


@pytest.fixture(scope="module")
def seen() -> Golden:
    return Golden(TINY / "vision.safetensors")


@pytest.fixture(scope="module")
def encoder(tiny_folder):
    return load.load_vision(tiny_folder)


@pytest.mark.parametrize("i", [0, 1])  # shrunk, and enlarged
def test_resized_frames_are_the_references_bytes(seen, i):
    resized = frames.resize(np.array(seen[f"masked.{i}"]), 32)
    assert resized.dtype == np.uint8
    assert np.array_equal(resized, np.array(seen[f"resized.{i}"]))


def test_a_frame_of_the_right_size_is_left_alone(seen):
    resized = np.array(seen["resized.0"])
    assert np.array_equal(frames.resize(resized, 32), resized)


def test_features(encoder, seen):
    expected = np.array(seen["features"])
    for i, latents in enumerate([19, 14]):
        batches = frames.batches(np.array(seen[f"masked.{i}"]), 32)
        features = np.concatenate(list(frames.encode(encoder, batches)))
        features = features[frames.spread(len(features), latents)]
        assert relative_error(features, expected[i, :latents]) <= 1e-5
    assert relative_error(expected[0, 0], expected[0, -1]) > 0.1  # frames tell apart


def test_the_parts_of_the_encoder_show(tiny_folder, seen):
    """Without the one or the other the features would not be the reference's."""
    images, expected = seen["resized.0"], np.array(seen["features"])[0, :1]

    def error(change) -> float:
        encoder = load.load_vision(tiny_folder)
        change(encoder)
        return relative_error(encoder(images)[:1], expected)

    def swap_axes(encoder):
        cos, sin = encoder._rotary
        half = cos.shape[1] // 2
        encoder._rotary = tuple(mx.roll(table, half, axis=1) for table in (cos, sin))

    assert error(lambda encoder: None) <= 1e-5
    assert error(swap_axes) > 1e-3
    assert error(lambda encoder: setattr(encoder.attn_pool, "_heads", 2)) > 1e-3
    assert error(lambda e: setattr(e.proj, "weight", e.proj.weight.T)) > 1e-3


def test_batches_do_not_matter(encoder, seen, monkeypatch):
    images = np.array(seen["masked.0"])
    (whole,) = frames.encode(encoder, frames.batches(images, 32))
    monkeypatch.setattr(frames, "BATCH", 3)
    batches = list(frames.batches(images, 32))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    pieces = list(frames.encode(encoder, batches))
    assert relative_error(np.concatenate(pieces), whole) < 1e-6


def test_nearest_frame(seen):
    times, expected = np.array(seen["input.times"], np.float64), np.array(seen["nearest"])
    wanted = np.arange(len(expected)) * 1920 / 48_000
    assert np.array_equal(frames.nearest(times, wanted), expected)
    assert len(set(expected)) > 10


def test_nearest_frame_at_the_edges():
    wanted = np.array([0, 0.5, 0.51, 9])
    assert frames.nearest(np.array([0.0, 1, 2]), wanted).tolist() == [0, 0, 1, 2]
    assert frames.nearest(np.array([5.0]), wanted).tolist() == [0] * 4


def test_frames_without_times_are_spread():
    torch = pytest.importorskip("torch")
    for count, latents in ((1, 5), (5, 1), (7, 19), (31, 101), (51, 101), (1000, 640)):
        expected = torch.linspace(0, count - 1, latents).round().long().numpy()
        assert np.array_equal(frames.spread(count, latents), expected)


def test_text_needs_no_vision_file(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    (folder / "vision.safetensors").unlink()
    manifest.write(folder)
    model = SAMAudio.from_pretrained(folder)
    assert model.separate(np.ones(4000), "dog", method="euler", steps=1).target.shape == (4000,)
    with pytest.raises(SAMAudioError, match=r"holds no vision\*\.safetensors"):
        load.load_vision(folder)


def test_every_vision_tensor_is_used(tiny_folder, encoder, tmp_path):
    weights = mx.load(str(tiny_folder / "vision.safetensors"))
    assert set(weights) == set(dict(tree_flatten(encoder.parameters())))
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    del weights["ln_pre.bias"]
    mx.save_safetensors(str(folder / "vision.safetensors"), {**weights, "more": mx.zeros(1)})
    manifest.write(folder)
    with pytest.raises(SAMAudioError, match="lacks 1 tensors: ln_pre.bias"):
        load.load_vision(folder)
    weights["ln_pre.bias"] = mx.zeros(16)
    mx.save_safetensors(str(folder / "vision.safetensors"), {**weights, "more": mx.zeros(1)})
    manifest.write(folder)
    with pytest.raises(SAMAudioError, match="unknown 1 tensors: more"):
        load.load_vision(folder)


def test_a_model_without_vision():
    with pytest.raises(SAMAudioError, match="has no vision"):
        load.load_vision(load.DEMO)


@pytest.mark.parametrize(
    "key, value",
    [("name", "PE-Core-X"), ("interpolation_mode", "NEAREST"), ("normalize_feature", False)],
)
def test_an_encoder_that_is_not_known(tmp_path, key, value):
    source = shutil.copytree(TINY, tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    config["vision_encoder"][key] = value
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(SAMAudioError, match=f"vision_encoder.{key} is .*, expected"):
        convert(str(source), tmp_path / "out")


def test_half_precision(tmp_path, encoder, seen):
    folder = convert(str(TINY), tmp_path / "half", dtype="float16")
    half = load.load_vision(folder)
    half.set_dtype(mx.float16)  # the CPU would compute in float32
    features = half(seen["resized.0"])
    assert features.dtype == mx.float32
    assert relative_error(features, encoder(seen["resized.0"])) < 0.02
