"""The vision encoder and what leads to it compute what the PyTorch reference computes."""

import shutil

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from benchmarks.parity import TINY, relative_error
from convert.command import convert
from mlx_sam_audio import SAMAudio, SAMAudioError
from mlx_sam_audio.loading import load, manifest, store
from mlx_sam_audio.media import frames

FROM_GOLDENS = {"item": lambda meta: range(len(meta["prompts"]))}


@pytest.fixture(scope="module")
def encoder(tiny_folder):
    return load.load_vision(tiny_folder)


def told(seen, *names: str) -> tuple[np.ndarray, ...]:
    if not all(name in seen for name in names):
        pytest.skip(f"these goldens hold no {names[0]}")
    return tuple(np.array(seen[name]) for name in names)


@pytest.mark.parity
def test_resized_frames_are_the_references_bytes(tiny, seen, item):
    """Of ours, one video is shrunk and one enlarged."""
    expected, masked = told(seen, f"resized.{item}", f"masked.{item}")
    resized = frames.resize(masked, tiny.config.vision.image_size)
    assert resized.dtype == np.uint8
    off = np.abs(resized.astype(int) - expected)
    assert off.shape == expected.shape and off.max() <= 1
    assert off.mean() <= seen.tolerances["pixels"]


def test_a_frame_of_the_right_size_is_left_alone(seen):
    resized = np.array(seen["resized.0"])
    assert np.array_equal(frames.resize(resized, 32), resized)


@pytest.mark.parity
def test_features(tiny, encoder, golden, seen, item):
    latents = -(-golden[f"input.audio.{item}"].size // tiny.hop_length)
    name, kind = f"resized.{item}", "stage"
    if name not in seen:
        name, kind = f"masked.{item}", "video"
    batches = frames.batches(np.array(seen[name]), tiny.config.vision.image_size)
    features = np.concatenate(list(frames.encode(encoder, batches)))
    features = features[frames.spread(len(features), latents)]
    error = relative_error(features, np.array(seen["features"])[item, :latents])
    assert error <= seen.tolerances[kind]
    assert relative_error(features[0], features[-1]) > 0.1  # frames tell apart


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


@pytest.mark.parity
def test_nearest_frame(tiny, seen):
    expected, times = told(seen, "nearest", "input.times")
    wanted = np.arange(len(expected)) * tiny.hop_length / tiny.sample_rate
    assert np.array_equal(frames.nearest(times.astype(np.float64), wanted), expected)
    assert len(set(expected)) > len(expected) / 2


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
        load.load_vision(store.DEMO)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("name", "PE-Other", "name is 'PE-Other', expected PE-Core-L14-336, or another"),
        ("interpolation_mode", "NEAREST", "interpolation_mode is 'NEAREST', expected 'BICUBIC'"),
        ("normalize_feature", False, "normalize_feature is False, expected True"),
    ],
)
def test_an_encoder_that_is_not_known(edit, refused, key, value, message):
    changed = {"tower": None, key: value}
    edit("config.json", lambda config: config["vision_encoder"].update(changed))
    refused(f"vision_encoder.*{message}")


def test_half_precision(tmp_path, encoder, seen):
    folder = convert(str(TINY), tmp_path / "half", dtype="float16")
    half = load.load_vision(folder)
    half.set_dtype(mx.float16)  # the CPU would compute in float32
    features = half(seen["resized.0"])
    assert features.dtype == mx.float32
    assert relative_error(features, encoder(seen["resized.0"])) < 0.02
