"""ImageBind's towers and what leads to them compute what the originals compute."""

import math
import warnings
from fractions import Fraction
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from mlx.utils import tree_flatten

from benchmarks.parity import relative_error
from convert import imagebind as converter
from convert.__main__ import main
from convert.command import convert
from convert.sources import Source
from mlx_sam_audio import SAMAudioError
from mlx_sam_audio.media.video import MaskedVideo
from mlx_sam_audio.models.quantise import QuantisationConfig
from mlx_sam_audio.ranking import fbank
from mlx_sam_audio.ranking.imagebind import ImageBind, ends, views

ORIGINAL = Path(__file__).parent / "golden" / "imagebind"
RATE = 48_000
FROM_GOLDENS = {"item": lambda meta: range(len(meta["durations"]))}


@pytest.fixture
def model(folder) -> ImageBind:
    return ImageBind.from_pretrained(folder)


@pytest.fixture(scope="module")
def rate(golden, meta) -> int:
    return round(waves(golden, 0).shape[1] / meta["durations"][0])


def cuts(golden, meta) -> list[list[list[int]]]:
    items = enumerate(meta["durations"])
    return [ends(len(frames(golden, item)), seconds).tolist() for item, seconds in items]


@pytest.fixture(autouse=True)
def clips(request) -> None:
    """Cuts clips as a release of pytorchvideo does where goldens of others were made with one."""
    golden, meta = (request.getfixturevalue(name) for name in ("golden", "meta"))
    if request.config.getoption("goldens") == ORIGINAL.parent:
        return
    if cuts(golden, meta) != meta["frames_of_clips"]:
        warnings.warn("goldens of a pytorchvideo that ImageBind does not pin", stacklevel=1)
        monkeypatch = request.getfixturevalue("monkeypatch")
        monkeypatch.setattr(fbank, "starts", released_starts)


def released_starts(seconds: float, clips: int) -> list[Fraction]:
    return [i * Fraction(max(seconds - fbank.CLIP, 0)) / clips for i in range(clips)]


def waves(golden, item) -> np.ndarray:
    """Candidates (k, T)."""
    return np.array(golden[f"input.audio.{item}"], np.float32) / 32768


def frames(golden, item) -> np.ndarray:
    return np.array(golden[f"input.frames.{item}"])


def share(golden, name: str, item: int, items: int) -> slice:
    """An item's rows of a golden tensor that holds all items', one after another."""
    rows = len(golden[name]) // items
    return slice(rows * item, rows * item + rows)


@pytest.mark.parity
def test_resampling(golden, near, rate):
    assert near(fbank.resample(waves(golden, 0)[:1], rate)[0], "resampled")


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100])
def test_resampling_from_other_rates(rate):
    tone = [np.sin(2 * np.pi * 440 * np.arange(r) / r) for r in (rate, fbank.SAMPLE_RATE)]
    resampled = fbank.resample(tone[0][None].astype(np.float32), rate)[0]
    assert len(resampled) == fbank.SAMPLE_RATE
    inside = slice(100, -100)
    assert relative_error(resampled[inside], tone[1][inside]) < 1e-3


@pytest.mark.parity
def test_spectrograms(golden, near, rate, item):
    heard = fbank.spectrograms(waves(golden, item), rate)
    assert near(heard[0][:, None], f"fbank.item{item}")
    assert relative_error(heard[0], heard[1]) > 0.01


@pytest.mark.parity
def test_spectrograms_without_resampling(golden, near):
    wave = np.array(golden["input.audio.16k"], np.float32)[None] / 32768
    untouched = wave.copy()
    assert near(fbank.spectrograms(wave, 16_000)[0][:, None], "fbank.16k")
    assert np.array_equal(wave, untouched)


@pytest.mark.parity
def test_clips_start_where_pytorchvideo_cuts(golden, meta):
    assert cuts(golden, meta) == meta["frames_of_clips"]


@pytest.mark.parity
def test_views(golden, meta, near, item):
    seen = views(MaskedVideo(frames(golden, item)), meta["durations"][item])
    step = seen.shape[-1] // golden["views.grid"].shape[-1]
    assert near(seen[..., ::step, ::step], "views.grid", item)
    assert near(seen.mean(axis=(-1, -2)), "views.mean", item)


@pytest.mark.parity
def test_audio(model, original, golden, meta, near, rate, item):
    """The original's are longer by a learned factor, which changes no angle."""
    heard = fbank.spectrograms(waves(golden, item), rate)
    embedded = np.array(model.network.audio(mx.array(heard).flatten(0, 1)))
    state = torch.load(original / converter.WEIGHTS, weights_only=True)
    factor = state["modality_postprocessors.audio.1.log_logit_scale"].exp().item()
    items = len(meta["durations"])
    assert near(factor * embedded, "audio.clips", share(golden, "audio.clips", item, items))
    means = embedded.reshape(*heard.shape[:2], -1).mean(axis=1)
    part = share(golden, "audio.embeddings", item, items)
    assert near(factor * means, "audio.embeddings", part)
    lengths = np.linalg.norm(np.array(golden["audio.embeddings"])[part], axis=1, keepdims=True)
    assert near(lengths * model.embed_audio(waves(golden, item), rate), "audio.embeddings", part)


@pytest.mark.parity
def test_vision(model, golden, meta, near, item):
    seen = mx.array(views(MaskedVideo(frames(golden, item)), meta["durations"][item]))
    embedded = np.array(model.network.vision(seen))
    part = share(golden, "vision.views", item, len(meta["durations"]))
    assert near(embedded, "vision.views", part)
    assert near(embedded.mean(axis=0), "vision.embeddings", item)


@pytest.mark.parity
def test_scores(model, golden, near, rate, item):
    scores = model(waves(golden, item), rate, frames(golden, item))
    assert scores.dtype == np.float32 and near(scores[:, None], "scores", item)


def test_candidates_do_not_matter_to_each_other(model, golden):
    together = model(waves(golden, 0), RATE, frames(golden, 0))
    alone = model(waves(golden, 0)[1:2], RATE, frames(golden, 0))
    assert relative_error(alone, together[1:2]) < 1e-5


def test_the_masked_video_is_what_counts(model, golden):
    shown = frames(golden, 0)
    hidden = shown.copy()
    hidden[:, :, 5:20, 10:30] = 0
    masked = model(waves(golden, 0), RATE, MaskedVideo(shown, (10, 5, 30, 20)))
    assert np.array_equal(masked, model(waves(golden, 0), RATE, hidden))
    assert relative_error(masked, model(waves(golden, 0), RATE, shown)) > 1e-3


@pytest.mark.parametrize(
    "change",
    [
        lambda audio: setattr(audio.stem_norm, "eps", 1e-6),
        lambda audio: setattr(audio.blocks[0].attn, "bias_k", mx.zeros((1, 1, 32))),
        lambda audio: setattr(audio.blocks[1].attn, "bias_v", mx.zeros((1, 1, 32))),
        lambda audio: setattr(audio, "positions", audio.positions[:, ::-1]),
    ],
)
def test_the_parts_of_the_audio_tower_show(model, golden, near, change):
    clips = mx.array(fbank.spectrograms(waves(golden, 0), RATE)).flatten(0, 1)
    change(model.network.audio)
    assert not near(20 * model.network.audio(clips), "audio.clips", slice(9))


def test_half_precision(model, golden, tmp_path):
    half = ImageBind.from_pretrained(convert(str(ORIGINAL), tmp_path / "half", dtype="float16"))
    half.network.set_dtype(mx.float16)  # the CPU would compute in float32
    arguments = waves(golden, 1), RATE, frames(golden, 1)
    assert half.network.audio(mx.zeros((1, fbank.MELS, fbank.FRAMES))).dtype == mx.float32
    assert np.abs(half(*arguments) - model(*arguments)).max() < 0.01


def test_silence(model):
    scores = model(np.zeros((1, 9_000)), 16_000, np.zeros((1, 3, 30, 40), np.uint8))
    assert np.isfinite(scores).all()


@pytest.mark.parametrize(
    "candidates, video, message",
    [
        (np.zeros(900), np.zeros((1, 3, 8, 8), np.uint8), r"\(k, samples\), at least one, not"),
        (np.zeros((0, 900)), np.zeros((1, 3, 8, 8), np.uint8), "at least one, not"),
        (np.zeros((1, 399)), np.zeros((1, 3, 8, 8), np.uint8), "399 samples: .* at least 400"),
        (np.full((1, 900), np.inf), np.zeros((1, 3, 8, 8), np.uint8), "NaN or infinite"),
        (np.zeros((1, 900)), np.zeros((1, 8, 8, 3), np.uint8), "frames must be uint8"),
        (np.zeros((1, 900)), MaskedVideo("nowhere.mp4"), "there is no file nowhere.mp4"),
    ],
)
def test_errors(model, candidates, video, message):
    with pytest.raises(SAMAudioError, match=message):
        model(candidates, 16_000, video)


def test_what_is_left_out(folder):
    """All of the two towers' values are there but the factor of the audio's."""
    state = torch.load(ORIGINAL / converter.WEIGHTS, weights_only=True)
    towers = {k: v for k, v in state.items() if k.split(".")[1] in ("audio", "vision")}
    factor = towers.pop("modality_postprocessors.audio.1.log_logit_scale")
    assert factor.exp().item() == pytest.approx(20)
    ours = mx.load(str(folder / "model.safetensors"))
    assert len(ours) == len(towers) and len(towers) < len(state) / 2
    total = sum(value.double().square().sum().item() for value in towers.values())
    ours = sum(np.square(value, dtype=np.float64).sum() for value in map(np.array, ours.values()))
    assert ours == pytest.approx(total)


def test_the_published_file_has_no_configuration(tmp_path):
    (tmp_path / converter.WEIGHTS).symlink_to(ORIGINAL / converter.WEIGHTS)
    network = converter.checkpoint(Source.find(str(tmp_path)), "float16").network
    counts = {
        tower: sum(math.prod(value.shape) for _, value in tree_flatten(network[tower].parameters()))
        for tower in ("audio", "vision")
    }
    assert counts == {"audio": 86_235_648, "vision": 632_829_440}  # as the original's


def test_a_tensor_that_is_missing_or_unknown(edit, refused):
    name = "modality_trunks.audio.blocks.1.attn.bias_k"
    edit(converter.WEIGHTS, lambda x: x.update({"modality_trunks.touch.x": x[name]}))
    refused("unexpected 1 tensors: modality_trunks.touch.x")
    edit(converter.WEIGHTS, lambda x: x.pop(name))
    refused(f"lacks 1 tensors: {name}")


def test_an_unknown_setting(edit, refused):
    edit("config.json", lambda values: values.update(flavour=1))
    refused("config.json has unknown keys: flavour")


def test_it_is_not_quantised(refused, tmp_path, capsys):
    refused("is ImageBind: leave out -q", quantisation=QuantisationConfig(8, 32))
    assert main(["--hf-path", str(ORIGINAL), "--mlx-path", str(tmp_path / "out"), "-q"]) == 2
    assert "is ImageBind: leave out -q" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_it_must_be_converted_first(tmp_path, store, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SAMAudioError, match="'imagebind' is not converted yet: download https://"):
        ImageBind.from_pretrained()
