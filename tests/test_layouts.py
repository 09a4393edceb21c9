"""Weights in the layouts that others publish become the model that Meta's checkpoint becomes, or
one that says what it lacks."""

import json
import re
import shutil
import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest
import torch
from mlx.utils import tree_flatten
from published import Normed, mlx_audio_layout, mlx_audio_name
from safetensors.torch import save_file

from benchmarks import models
from benchmarks.parity import TINY, relative_error
from convert import known, rules
from convert.command import convert
from convert.groups import WATERMARK, WHERE
from convert.layouts import reference_name
from convert.sam_audio import source_name
from mlx_sam_audio import MaskedVideo, SAMAudio, SAMAudioError, SAMAudioWarning
from mlx_sam_audio.loading.strict_json import read_json
from mlx_sam_audio.models.quantise import QuantisationConfig
from mlx_sam_audio.models.sam_audio import Network


@pytest.fixture(scope="module")
def state() -> dict:
    return torch.load(TINY / "checkpoint.pt", weights_only=True)


@pytest.fixture
def place(tmp_path, state):
    """Makes a folder of tensors in .safetensors files."""

    def make(tensors: dict, name: str = "source", dtype=None, shards: int = 1, file="model"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        shutil.copy(TINY / "config.json", folder)
        shutil.copytree(TINY / "t5", folder / "t5", dirs_exist_ok=True)
        tensors = {key: value.to(dtype or value.dtype) for key, value in tensors.items()}
        names = sorted(tensors)
        for i in range(shards):
            part = {key: tensors[key].clone() for key in names[i::shards]}
            end = f"-{i + 1:05d}-of-{shards:05d}" if shards > 1 else ""
            save_file(part, folder / f"{file}{end}.safetensors", metadata={"format": "mlx"})
        return folder

    return make


def without(state: dict, *patterns: str) -> dict:
    return {
        name: value
        for name, value in state.items()
        if not any(re.match(pattern, name) for pattern in patterns)
    }


def only(state: dict, *patterns: str) -> dict:
    return {name: state[name] for name in state.keys() - without(state, *patterns).keys()}


def weights(folder) -> dict:
    return mx.load(str(folder / "model.safetensors"))


def same(folder, other, dtype=mx.float32) -> bool:
    ours, theirs = weights(folder), weights(other)
    return ours.keys() == theirs.keys() and all(
        mx.array_equal(ours[name], theirs[name].astype(dtype)).item() for name in ours
    )


def quiet(folder) -> SAMAudio:
    with pytest.warns(SAMAudioWarning, match="lacks"):
        return SAMAudio.from_pretrained(folder)


def test_what_mlx_audio_saved_becomes_the_same_model(place, state, tiny_folder, tmp_path):
    folder = convert(
        str(place(mlx_audio_layout(state))),
        tmp_path / "out",
        codec_from=str(TINY),
        video_from=str(TINY),
    )
    assert same(folder, tiny_folder)
    seen = [mx.load(str(each / "vision.safetensors")) for each in (folder, tiny_folder)]
    assert all(mx.array_equal(seen[0][name], seen[1][name]).item() for name in seen[1])
    assert read_json(folder / "config.json") == read_json(tiny_folder / "config.json")
    told = read_json(folder / "source.json")
    assert told["checkpoint"]["layout"] == "mlx-audio" and told["checkpoint"]["known"] is None
    assert told["video"]["compared"] == ["proj.bias", "memory_proj.bias", "embed_anchors.gate"]
    assert set(told["video"]["sha256"]) == {"checkpoint.pt"}


def test_what_mlx_audio_leaves_out(place, state, tiny, tmp_path):
    """The velocity changes by what the alignment makes of an absent video, and by nothing else."""
    folder = convert(str(place(mlx_audio_layout(state))), tmp_path / "out", codec_from=str(TINY))
    with pytest.warns(SAMAudioWarning) as said:
        model = SAMAudio.from_pretrained(folder)
    (note,) = (str(each.message) for each in said)
    assert "the model out lacks Meta's video alignment and vision encoder" in note
    assert "--video-from" in note
    given = mx.random.normal((1, 9, 8)), mx.zeros((1, 2, 16)), mx.ones((1, 2), mx.bool_)
    anchors = mx.zeros((1, 9), mx.int32)
    ours, whole = (m.network.condition(*given, anchors).static for m in (model, tiny))
    constant = tiny.network.align_masked_video(None)
    assert mx.abs(constant).max().item() > 1e-3
    assert mx.allclose(ours + constant, whole, atol=1e-6).item()
    wave = np.random.default_rng(0).normal(0, 0.1, 4000).astype(np.float32)
    result = model.separate(wave, "dog", steps=1)
    assert result.report()["missing"] == ("video alignment", "vision encoder")
    video = MaskedVideo(np.zeros((2, 3, 32, 32), np.uint8), (0, 0, 4, 4))
    with pytest.raises(SAMAudioError, match="takes text and spans only: it lacks Meta's video ali"):
        model.separate(wave, "dog", video=video)


def test_the_constant_alone(place, state, tiny, tmp_path):
    """From a source without a vision encoder: what text and spans need is there."""
    aligned = place(without(state, "vision_encoder", "audio_codec"), "aligned")
    folder = convert(
        str(place(mlx_audio_layout(state))),
        tmp_path / "out",
        codec_from=str(TINY),
        video_from=str(aligned),
    )
    assert read_json(folder / "config.json")["missing"] == ["vision encoder"]
    assert read_json(folder / "source.json")["video"]["groups"] == ["video alignment"]
    model = quiet(folder)
    constant = tiny.network.align_masked_video(None)[0, 0]
    assert mx.allclose(model.network.align_masked_video(None), constant, atol=1e-6).item()
    wave = np.random.default_rng(0).normal(0, 0.1, 4000).astype(np.float32)
    ours, theirs = (m.separate(wave, "dog", steps=2).target for m in (model, tiny))
    assert relative_error(ours, theirs) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shards", [1, 3])
def test_the_references_names(place, state, tiny_folder, tmp_path, dtype, shards):
    """Nothing is lacking; the source's type is kept unless another is asked for."""
    source = str(place(state, dtype=dtype, shards=shards))
    folder = convert(source, tmp_path / "out")
    name = str(dtype).removeprefix("torch.")
    assert read_json(folder / "config.json")["dtype"] == name
    assert SAMAudio.from_pretrained(folder).config.missing == ()
    if dtype == torch.float32:
        assert same(folder, tiny_folder)
        return
    wide = convert(source, tmp_path / "wide", dtype="float32")
    assert same(folder, wide, getattr(mx, name))
    for key, value in weights(tiny_folder).items():
        if not key.startswith("text_encoder."):
            error = mx.linalg.norm(weights(wide)[key] - value) / mx.linalg.norm(value)
            assert error.item() < (2**-9 if name == "float16" else 2**-6), key


def test_few_bits_from_any_layout(place, state, tmp_path):
    few = dict(quantisation=QuantisationConfig(4, 32), codec_from=str(TINY))
    theirs = convert(str(place(mlx_audio_layout(state))), tmp_path / "theirs", **few)
    ours = convert(str(place(without(state, "vision", "align"), "plain")), tmp_path / "ours", **few)
    assert same(theirs, ours) and quiet(theirs).config.quantisation.bits == 4


def test_a_codec_from_elsewhere(place, state, tiny_folder, tmp_path):
    base = place(without(state, "audio_codec"), "base")
    codec = place(only(state, "audio_codec"), "codec", file="audio_codec")
    with pytest.raises(SAMAudioError, match="holds no codec: name .* with --codec-from"):
        convert(str(base), tmp_path / "out")
    folder = convert(str(base), tmp_path / "out", codec_from=str(codec))
    assert same(folder, tiny_folder)
    assert read_json(folder / "source.json")["codec"]["compared"] == []
    bare = {
        name.removeprefix("audio_codec."): value for name, value in mlx_audio_layout(state).items()
    }
    alone = place(
        {k: v for k, v in bare.items() if k.startswith(("encoder.", "decoder.", "quant"))}, "bare"
    )
    with pytest.raises(SAMAudioError, match="does not tell the order of axes"):
        convert(str(base), tmp_path / "other", codec_from=str(alone))


def test_a_watermark_from_elsewhere(place, state, tiny_folder, tmp_path):
    base = place(without(state, WHERE[WATERMARK]), "base")
    plain = convert(str(base), tmp_path / "plain")
    assert read_json(plain / "config.json")["missing"] == ["watermark"]
    assert not quiet(plain).config.codec.watermark
    folder = convert(str(base), tmp_path / "out", watermark_from=str(TINY))
    assert same(folder, tiny_folder)


@pytest.mark.parametrize("option", ["video_from", "watermark_from", "codec_from"])
def test_sources_of_other_trainings(place, state, tmp_path, option):
    gone = {"video_from": ["align", "vision"], "watermark_from": [WHERE[WATERMARK]]}
    base = place(without(state, *gone.get(option, [])), "base")
    other = place({name: value * 1.001 for name, value in state.items()}, "other")
    with pytest.raises(SAMAudioError, match=f"belongs to another checkpoint.*{option[:5]}"):
        convert(str(base), tmp_path / "out", **{option: str(other)})
    strange = place(only(state, "vision_encoder", "align", WHERE[WATERMARK]), "strange")
    with pytest.raises(SAMAudioError, match="nothing shows that .*strange"):
        convert(str(base), tmp_path / "out", **{option: str(strange)})
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_not_filled_in(place, state, tmp_path):
    base = place(state, "base")
    for option in ("video_from", "watermark_from"):
        with pytest.raises(SAMAudioError, match=f"holds the .*leave out --{option[:5]}"):
            convert(str(base), tmp_path / "out", **{option: str(TINY)})


KEY = "audio_codec.decoder.wm_model.decoder_block.pre.1.lstm.weight_ih_l0"


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda s: s.pop("proj.bias"), "the checkpoint lacks 1 tensors: proj.bias"),
        (lambda s: s.update(x=s["proj.bias"]), "unexpected 1 tensors: x"),
        (lambda s: s.pop(KEY), f"the checkpoint lacks 1 tensors: {KEY}"),
        (lambda s: s.pop("align_masked_video.gate"), "lacks 1 tensors: align_masked_video.gate"),
        (lambda s: s.pop("vision_encoder.model.visual.proj"), "lacks 1 tensors: vision_encoder"),
        (
            lambda s: s.update({"audio_codec.encoder.conv_in.bias": s["proj.bias"]}),
            "mixes two layouts, as .*block.* and .*conv_in.bias show",
        ),
        (lambda s: s.update({"proj.scales": s["proj.bias"]}), "quantised already.*proj.scales"),
        (lambda s: s.update({"proj.bias._scale": s["proj.bias"]}), "in 8 bits.*proj.bias._scale"),
        (
            lambda s: s.update({"proj.weight": s["proj.weight"].to(torch.float8_e4m3fn)}),
            "F8_E4M3: 8-bit floats",
        ),
        (lambda s: s.update({"proj.bias": s["proj.bias"].int()}), "in I32: weights are floating"),
    ],
)
def test_what_is_refused(place, state, tmp_path, edit, message):
    tensors = dict(state)
    edit(tensors)
    folder = place(tensors)
    with pytest.raises(SAMAudioError, match=message):
        convert(str(folder), tmp_path / "out")
    assert not (tmp_path / "out").exists()


CONV, SNAKE = "audio_codec.encoder.conv_in.bias", "audio_codec.encoder.snake_out.alpha"


@pytest.mark.parametrize("name", ["embed_anchors.gate", "proj.bias", CONV, SNAKE])
def test_a_tensor_that_was_never_loaded(place, state, tmp_path, name):
    tensors = mlx_audio_layout(state)
    tensors[name] = torch.zeros_like(tensors[name]) + float(name.endswith("alpha"))
    with pytest.raises(SAMAudioError, match=f"holds {name} as it was before any training"):
        convert(str(place(tensors)), tmp_path / "out", codec_from=str(TINY))


def test_several_weights(place, state, tmp_path, tiny_folder):
    folder = place(state, file="model.fp32")
    place(state, file="model.fp16", dtype=torch.float16)
    with pytest.raises(SAMAudioError, match=r"several weights \(model.fp16.*name one, as"):
        convert(str(folder), tmp_path / "out")
    assert same(convert(f"{folder}/model.fp32.safetensors", tmp_path / "out"), tiny_folder)
    place(state, shards=2, file="model.fp16")
    (folder / "model.fp16.safetensors").unlink()
    (folder / "model.fp32.safetensors").rename(folder / "model.fp16-00002-of-00002.safetensors")
    with pytest.raises(SAMAudioError, match="holds twice"):
        convert(str(folder), tmp_path / "other")
    (folder / "model.fp16-00001-of-00002.safetensors").unlink()
    with pytest.raises(SAMAudioError, match="lacks model.fp16-00001-of-00002.safetensors"):
        convert(str(folder), tmp_path / "other")


def test_another_configuration(place, state, tmp_path):
    folder = place(state)
    (folder / "config.json").rename(folder / "config-tiny.json")
    with pytest.raises(SAMAudioError, match="holds no config.json"):
        convert(str(folder), tmp_path / "out")
    convert(str(folder), tmp_path / "out", config="config-tiny.json")


def test_without_a_tokenizer(place, state, tmp_path):
    folder = place(state)
    (folder / "t5" / "spiece.model").unlink()
    with pytest.raises(SAMAudioError, match="holds no spiece.model"):
        convert(str(folder), tmp_path / "out")


def test_what_is_converted_already(tiny_folder, tmp_path):
    with pytest.raises(SAMAudioError, match="is converted already: use it as it is, with -m"):
        convert(str(tiny_folder), tmp_path / "out")


def test_published_checkpoints_are_known(place, state, tmp_path, monkeypatch):
    folder, said = place(state), []
    convert(str(folder), tmp_path / "out", tell=said.append)
    assert "unknown to us" in said[0]
    told = read_json(tmp_path / "out" / "source.json")["checkpoint"]
    monkeypatch.setitem(known.SUMS, told["sha256"]["model.safetensors"], "sam-audio-small")
    convert(str(folder), tmp_path / "known", tell=said.append)
    assert said[2].endswith("source is Meta's sam-audio-small, by its sha256")
    told = read_json(tmp_path / "known" / "source.json")["checkpoint"]
    assert told["known"] == "facebook/sam-audio-small"


@pytest.mark.parametrize("size, count", [("small", 555), ("base", 627), ("large", 735)])
def test_every_name_of_the_published_conversions(monkeypatch, size, count):
    """mlx-audio's names of the full sizes are one to one with what our network needs."""
    network, stages = Network(models.config(size, "float16")), 4
    network.pop("text_encoder")
    network.pop("align_masked_video")
    monkeypatch.setattr(rules, "complain", lambda *what: None)
    plan = rules.plan(network, lambda name: source_name(name, stages), Normed(), {})
    needed = [source for rule in plan for source in rule.sources]
    theirs = {mlx_audio_name(name, stages) for name in needed}
    assert len(theirs) == count
    back = sorted(reference_name(name, stages) for name in theirs)
    assert back == sorted(name for name in needed if ".bias_hh_l" not in name)


def test_without_pytorch(place, state, tmp_path):
    """Neither converting nor importing what mlx-audio saved needs it."""
    folder = place(mlx_audio_layout(state))
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from convert.command import convert\n"
        "from mlx_sam_audio import SAMAudio\n"
        f"made = convert({str(folder)!r}, {str(tmp_path / 'out')!r}, codec_from={str(TINY)!r})\n"
        "SAMAudio.from_pretrained(made)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_mlx_audio_itself_saves(place, state, tiny_folder, tmp_path):
    """Its own classes load the tiny checkpoint and save it. They take the watermark for one of
    Meta's sizes, and leave two tensors as they are whose axes they cannot tell apart."""
    audio = pytest.importorskip("mlx_audio.sts.models.sam_audio.model")
    codec = pytest.importorskip("mlx_audio.codec.models.dacvae.codec")
    given = json.loads((TINY / "config.json").read_text())
    given.pop("vision_encoder")
    theirs = audio.SAMAudio(audio.SAMAudioConfig.from_dict(given))
    theirs.audio_codec.decoder.wm_model = codec.Watermarker(channels=2, hidden=32)
    theirs = audio._load_weights(theirs, {name: mx.array(x.numpy()) for name, x in state.items()})
    folder = place({})
    path = str(folder / "model.safetensors")
    mx.save_safetensors(path, dict(tree_flatten(theirs.parameters())), metadata={"format": "mlx"})
    made = convert(str(folder), tmp_path / "out", codec_from=str(TINY), video_from=str(TINY))
    assert same(made, tiny_folder)
