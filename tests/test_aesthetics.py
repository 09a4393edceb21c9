"""audiobox-aesthetics against the original's tensors: stages, windows, scores, the converter."""

from dataclasses import astuple, replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import soxr
from hub import Hub, pointed_at

from benchmarks.networks import WAVLM
from benchmarks.parity import relative_error
from convert import aesthetics as converter
from convert.command import convert
from mlx_sam_audio import SAMAudioError
from mlx_sam_audio.models import cpu
from mlx_sam_audio.models.aesthetics import AXES, CLIP, bucket, frames
from mlx_sam_audio.models.quantise import QuantisationConfig
from mlx_sam_audio.ranking.aesthetics import Aesthetics, windows
from mlx_sam_audio.ranking.clap import CLAP
from mlx_sam_audio.ranking.fbank import resample

ORIGINAL = Path(__file__).parent / "golden" / "aesthetics"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def model(folder) -> Aesthetics:
    return Aesthetics.from_pretrained(folder)


@pytest.fixture(scope="module")
def waves(golden) -> dict[str, np.ndarray]:
    return {
        name: np.array(golden[f"input.{name}"], np.float32) / 128 for name in ("a", "b", "other")
    }


@pytest.fixture(scope="module")
def long(waves, meta) -> np.ndarray:
    """More than a window."""
    a, b = waves["a"], waves["b"]
    turns = np.concatenate([b, a, a[::-1], b[::-1]] * meta["long"]["times"])
    return turns[: meta["long"]["samples"]]


@pytest.fixture(scope="module")
def batch(waves) -> tuple[mx.array, mx.array]:
    """Samples and mask: two items, the second of which is padded."""
    a, b = waves["a"], waves["b"]
    wave = np.stack([np.concatenate([a, b]), np.pad(b, (0, len(a)))])
    return mx.array(wave), mx.arange(wave.shape[1]) < mx.array([[wave.shape[1]], [len(b)]])


@pytest.fixture(scope="module")
def heard(model, batch) -> tuple[list[mx.array], mx.array]:
    """States and the mask of frames."""
    return model.network.wavlm_model(*batch)


@pytest.mark.parity
def test_features(model, batch, golden, near):
    wavlm = model.network.wavlm_model
    features = wavlm.feature_extractor(batch[0])
    assert near(features.swapaxes(1, 2), "features")
    mask = frames(batch[1], features.shape[1])
    assert mx.array_equal(mask, golden["frames"]).item() and not mask.all().item()
    projected = mx.where(mask[..., None], wavlm.project(features), 0)
    assert near(projected, "projected")
    assert near(wavlm.pos_conv(projected), "position")


@pytest.mark.parity
def test_distances(model, golden, near):
    wavlm, last = model.network.wavlm_model, len(golden["buckets"]) // 2
    count, length = model.config.encoder.buckets, golden["bias.first"].shape[1]
    found = bucket(np.arange(-last, last + 1), count, model.config.encoder.max_distance)
    assert np.array_equal(found, golden["buckets"])
    bias = wavlm.bias(length)
    assert near(bias[:, 0], "bias.first") and near(bias[:, -1], "bias.last")


@pytest.mark.parity
def test_layers(model, heard, golden, near):
    states, mask = heard
    bias = model.network.wavlm_model.bias(mask.shape[1])
    for i, layer in enumerate(model.network.wavlm_model.layers[:2]):
        assert near(layer.self_attn(golden[f"state{i}"], bias, mask), f"attention{i}")
    for i, state in enumerate(states):
        assert near(state, f"state{i}")


@pytest.mark.parity
def test_heads(model, batch, heard, near):
    embedded = model.network.embed(*heard)
    assert near(embedded, "embedded")
    assert near(model.network.predict(embedded), "predictions")
    wave, mask = (x[:1] for x in batch)
    alone = model.network.embed(*model.network.wavlm_model(wave, mask))
    assert near(model.network.predict(alone), "alone")


@pytest.mark.parity
def test_resampling(waves, meta, near):
    assert near(resample(waves["other"][None], meta["other_rate"])[0, ::2], "resampled")


@pytest.mark.parity
def test_windows(waves, long, golden, near):
    cut = [*windows(long), *windows(waves["a"])]
    assert near([mask.mean() for _, mask in cut], "weights")
    assert all(wave.shape == mask.shape == (CLIP,) for wave, mask in cut)
    assert np.array_equal(np.concatenate([wave[mask] for wave, mask in cut[:2]]), long)
    assert not any(wave[~mask].any() for wave, mask in cut)


@pytest.mark.parity
def test_scores(model, waves, long, meta, near):
    scores = model(long[None]) + model(waves["a"][None])
    scores += model(waves["other"][None], sample_rate=meta["other_rate"])
    assert near([astuple(score) for score in scores], "scores")


def test_a_window_counts_by_its_sound(model, long):
    parts = [astuple(model(part[None])[0]) for part in (long[:CLIP], long[CLIP:])]
    weights = [CLIP, len(long) - CLIP]
    assert astuple(model(long[None])[0]) == pytest.approx(np.average(parts, 0, weights), abs=1e-6)


@pytest.mark.parametrize("samples, count", [(1, 1), (CLIP, 1), (CLIP + 1, 2)])
def test_how_many_windows(samples, count):
    cut = windows(np.ones(samples, np.float32))
    assert len(cut) == count and sum(mask.sum() for _, mask in cut) == samples


def test_a_batch_is_its_items(model, batch):
    together = model.network(*batch)
    for i in range(2):
        alone = model.network(*(x[i : i + 1] for x in batch))
        assert relative_error(alone, together[i : i + 1]) < 1e-5


def test_padded_frames_are_not_heard(model, batch, heard):
    """What the layers make of them changes nothing; without a mask, padding is heard."""
    wave, mask = batch
    states, seen = heard
    bias = model.network.wavlm_model.bias(seen.shape[1])
    other = mx.where(seen[..., None], states[0], 3.0)
    layer = model.network.wavlm_model.layers[0]
    outputs = [mx.where(seen[..., None], layer(x, bias, seen), 0) for x in (states[0], other)]
    assert mx.array_equal(*outputs).item()
    scores = [model.network(wave, x) for x in (mask, mx.ones_like(mask))]
    assert mx.array_equal(scores[0][0], scores[1][0]).item()
    assert relative_error(scores[0][1:], scores[1][1:]) > 1e-3


def test_clips_do_not_matter_to_each_other(model, waves):
    clips = np.stack([waves["a"][:8000], waves["b"][:8000]])
    assert model(clips) == [model(clip[None])[0] for clip in clips]


def test_other_rates(model):
    wave = np.random.default_rng(0).normal(0, 0.1, 24_000)
    smooth = soxr.resample(wave, 8_000, 16_000, quality="VHQ")  # without what a slope would cut
    expected = astuple(model([smooth])[0])
    at48 = soxr.resample(smooth, 16_000, 48_000, quality="VHQ")
    assert astuple(model([at48], sample_rate=48_000)[0]) == pytest.approx(expected, abs=1e-2)
    assert astuple(model([at48])[0]) != pytest.approx(expected, abs=1e-2)


def test_silence_and_a_single_sample(model):
    for clip in (np.zeros((1, 9_000)), np.full((1, 1), 0.5)):
        assert np.isfinite(astuple(model(clip)[0])).all()


@pytest.mark.parametrize(
    "change",
    [
        lambda wavlm: setattr(wavlm.layers[1].self_attn, "grep_a", mx.ones((1, 4, 1, 1))),
        lambda wavlm: setattr(wavlm.pos_conv, "weight", wavlm.pos_conv.weight[:, ::-1]),
        lambda wavlm: setattr(wavlm, "_max_distance", 200),
        lambda wavlm: setattr(wavlm.feature_extractor.norm, "bias", mx.zeros((12,))),
    ],
)
def test_the_parts_of_the_encoder_show(folder, long, golden, change):
    fresh = Aesthetics.from_pretrained(folder)
    change(fresh.network.wavlm_model)
    scores = astuple(fresh(long[None])[0])
    assert relative_error(scores, np.array(golden["scores"])[0]) > 1e-5


def test_half_precision(model, waves, tmp_path):
    with cpu.forced(False):  # the CPU would compute in float32
        half = Aesthetics.from_pretrained(
            convert(str(ORIGINAL), tmp_path / "half", dtype="float16")
        )
    assert half.network.wavlm_model.norm.weight.dtype == mx.float16
    states, _ = half.network.wavlm_model(mx.zeros((1, 4000)), mx.ones((1, 4000), mx.bool_))
    assert {state.dtype for state in states} == {mx.float16}
    scores = [astuple(each(waves["a"][None])[0]) for each in (half, model)]
    assert scores[0] == pytest.approx(scores[1], abs=0.02)


@pytest.mark.parametrize(
    "clips, rate, message",
    [
        (np.zeros(9), None, r"clips must be \(k, samples\), not \(9,\)"),
        (np.zeros((0, 9)), None, r"not \(0, 9\)"),
        (np.zeros((1, 0)), None, r"not \(1, 0\)"),
        (np.full((1, 9), np.nan), None, "holds NaN or infinite"),
        (np.zeros((1, 1)), 767_999, "shorter than a sample"),
        (np.zeros((1, 9)), 10, "sample_rate must be"),
    ],
)
def test_errors(model, clips, rate, message):
    with pytest.raises(SAMAudioError, match=message):
        model(clips, rate)


def test_what_is_left_out(folder):
    """All but what stands for hidden frames; the factors of a norm are in its weight."""
    theirs = set(mx.load(str(ORIGINAL / WEIGHTS)))
    assert len(mx.load(str(folder / WEIGHTS))) == len(theirs) - 2
    assert "wavlm_model.mask_emb" in theirs


def test_every_tensor_is_used_or_named(edit, refused):
    edit(WEIGHTS, lambda x: x.update({"wavlm_model.new": np.zeros(1, np.float32)}))
    refused("unexpected 1 tensors: wavlm_model.new")


@pytest.mark.parametrize(
    "name",
    ["layer_weights.PC", "proj_layer.CU.5.bias", "wavlm_model.encoder.layers.2.self_attn.grep_a"],
)
def test_a_missing_tensor(edit, refused, name):
    edit(WEIGHTS, lambda x: x.pop(name))
    refused(f"lacks 1 tensors: {name}")


def test_another_encoder(edit, refused):
    edit(WEIGHTS, lambda x: x.pop("wavlm_model.encoder.pos_conv.0.weight_v"))
    refused("holds no WavLM: it lacks wavlm_model.encoder.pos_conv.0.weight_v")


@pytest.mark.parametrize(
    "name, shape, message",
    [
        ("layer_weights.CE", (5,), r"the shape \(5,\) instead of \(4,\)"),
        ("wavlm_model.encoder.pos_conv.0.weight_g", (32, 1, 1), "do not have the shapes of such"),
        ("wavlm_model.encoder.layers.1.fc1.weight", (40, 31), r"instead of \(40, 32\)"),
        ("wavlm_model.encoder.pos_conv.0.weight_v", (32, 128), "no WavLM"),
        ("wavlm_model.encoder.pos_conv.0.weight_v", (32, 3, 128), "no multiple of position_groups"),
    ],
)
def test_a_misshapen_tensor(edit, refused, name, shape, message):
    edit(WEIGHTS, lambda x: x.update({name: np.ones(shape, np.float32)}))
    refused(message)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.update(proj_ln=False), "proj_ln is False, expected True"),
        (lambda c: c.pop("proj_ln"), "lacks proj_ln"),
        (lambda c: c.update(proj_num_layer=5), "lacks 32 tensors: proj_layer.CE"),
        (lambda c: c.update(nth_layer=3), "nth_layer is 3: only all 4 states"),
        (lambda c: c.update(use_weighted_layer_sum=False), "use_weighted_layer_sum is False"),
        (lambda c: c.update(proj_act_fn="relu"), "proj_act_fn is 'relu'"),
        (lambda c: c["target_transform"].pop("PC"), "target_transform lacks PC"),
        (lambda c: c["target_transform"]["PC"].update(std=0), "target_transform.PC.std is 0"),
    ],
)
def test_unsupported_settings(edit, refused, change, message):
    edit("config.json", change)
    refused(message)


def test_settings_that_do_not_matter(edit, source, folder, tmp_path):
    """The original never computes in the `precision` that is asked for, and skips other keys."""
    edit("config.json", lambda c: c.update(precision="16", flavour=1))
    again = convert(str(source), tmp_path / "out")
    written = [mx.load(str(place / WEIGHTS)) for place in (folder, again)]
    assert all(mx.array_equal(value, written[1][name]).item() for name, value in written[0].items())


def test_without_dropout_the_heads_count_otherwise(edit, source, golden, waves, tmp_path):
    """Modules of a head are numbered, and no dropout is no module."""

    def renumber(tensors):
        for name in [name for name in tensors if name.startswith("proj_layer")]:
            head, axis, number, key = name.split(".")
            number = int(number) - int(number) // 4
            tensors[f"{head}.{axis}.{number}.{key}-"] = tensors.pop(name)
        for name in [name for name in tensors if name.endswith("-")]:
            tensors[name[:-1]] = tensors.pop(name)

    edit("config.json", lambda c: c.update(proj_dropout=0))
    edit(WEIGHTS, renumber)
    same = Aesthetics.from_pretrained(convert(str(source), tmp_path / "out"))
    scores = astuple(same(waves["a"][None])[0])
    assert relative_error(scores, np.array(golden["scores"])[1]) < 1e-5


def test_the_published_sizes():
    """As they are read off tensors of these shapes."""
    encoder = "wavlm_model.encoder"
    shapes = {
        f"wavlm_model.feature_extractor.conv_layers.{i}.0.weight": (512, 512 if i else 1, kernel)
        for i, kernel in enumerate((10, 3, 3, 3, 3, 2, 2))
    }
    shapes |= {f"{encoder}.layers.{i}.fc1.weight": (3072, 768) for i in range(12)}
    shapes[f"{encoder}.layers.0.self_attn.relative_attention_bias.weight"] = (320, 12)
    shapes[f"{encoder}.pos_conv.0.weight_v"] = (768, 48, 128)
    assert converter.encoder_config(shapes, "x") == WAVLM and not any(WAVLM.wrong().values())
    assert WAVLM.frames == 499


@pytest.mark.parametrize(
    "values, message",
    [
        (dict(strides=(5, 2)), "kernels and strides are not as many"),
        (dict(strides=(1,) * 7), "too many frames"),
        (dict(kernels=(1024,) * 7), "a clip makes no frame"),
        (dict(n_heads=5), "a width of 768 is not 5 heads"),
        (dict(buckets=6), "buckets is no multiple of 4"),
        (dict(max_distance=80), "max_distance is too short"),
    ],
)
def test_sizes_that_do_not_go_together(values, message):
    wrong = replace(WAVLM, **values).wrong()
    assert [problem for problem, holds in wrong.items() if holds and message in problem]


def test_kinds_are_not_mixed_up(folder, converted, refused):
    with pytest.raises(SAMAudioError, match="an aesthetics model, where a CLAP ranker is needed"):
        CLAP.from_pretrained(folder)
    with pytest.raises(SAMAudioError, match="a judge, where an aesthetics model is needed"):
        Aesthetics.from_pretrained(converted("judge"))
    refused("is audiobox-aesthetics: leave out -q", quantisation=QuantisationConfig(8, 32))
    refused("an aesthetics model, where a judge is needed", wanted="sam_audio_judge")


def test_the_published_repo(store, source, monkeypatch):
    with pytest.raises(SAMAudioError, match="run `python -m convert --hf-path aesthetics`"):
        Aesthetics.from_pretrained()
    with Hub() as hub:
        pointed_at(hub, monkeypatch, source.parent / "cache")
        hub.add("facebook/audiobox-aesthetics", source)
        assert convert("aesthetics") == store / "aesthetics"
    assert Aesthetics.from_pretrained().sample_rate == 16_000


def test_the_scores_are_of_the_axes(model):
    assert AXES == ("CE", "CU", "PC", "PQ")
    (scores,) = model(np.zeros((1, 400)))
    assert list(vars(scores)) == ["enjoyment", "usefulness", "complexity", "quality"]
