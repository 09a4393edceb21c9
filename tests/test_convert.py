"""The converter uses every tensor once, or writes nothing."""

import json
import pickle
import re
import shutil

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import torch
from mlx_lm.utils import compute_bits_per_weight, dequantize_model

from benchmarks import parity
from benchmarks.parity import TINY
from convert import folder as folders
from convert.__main__ import main
from convert.command import convert
from convert.sam_audio import LEFT_OUT
from mlx_sam_audio import SAMAudio, SAMAudioError, dit
from mlx_sam_audio.config import QuantisationConfig


def test_the_folder_is_complete(tiny_folder):
    names = {path.name for path in tiny_folder.iterdir()}
    weights = {"model.safetensors", "vision.safetensors"}
    assert names == {"config.json", "source.json", "spiece.model", *weights}
    origin = json.loads((tiny_folder / "source.json").read_text())
    assert origin["checkpoint"]["repo"] == "tiny"
    assert len(origin["checkpoint"]["sha256"]["checkpoint.pt"]) == 64


def test_missing_and_unexpected_tensors(edit, refused):
    edit("checkpoint.pt", lambda state: state.pop("proj.bias"))
    refused("the checkpoint lacks 1 tensors: proj.bias")
    edit(
        "checkpoint.pt",
        lambda state: state.update({"proj.bias": torch.zeros(48), "x": torch.zeros(1)}),
    )
    refused("the checkpoint holds unexpected 1 tensors: x")


def test_a_misshapen_tensor(edit, refused):
    edit("checkpoint.pt", lambda state: state.update({"memory_proj.bias": torch.zeros(7)}))
    refused(r"memory_proj.bias the shape \(7,\) instead of \(48,\)")


def test_a_tensor_that_is_not_finite(edit, refused):
    edit("checkpoint.pt", lambda state: state["memory_proj.bias"].fill_(1e6))
    refused("not finite in float16", dtype="float16")


def test_only_the_vision_models_text_tower_is_left_out():
    state = torch.load(TINY / "checkpoint.pt", weights_only=True)
    left_out = [name for name in state if any(re.match(pattern, name) for pattern in LEFT_OUT)]
    assert left_out and all(name.startswith("vision_encoder.model.") for name in left_out)
    assert not any(".visual." in name for name in left_out)


def test_a_truncated_checkpoint(source, refused):
    path = source / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-100_000])
    refused("checkpoint.pt is damaged or incomplete")


class Code:
    def __reduce__(self):
        return print, ("this ran",)


def test_a_pickle_that_wants_to_run_code(source, refused, capsys):
    torch.save({"x": Code()}, source / "checkpoint.pt")
    refused("wants to run code")
    (source / "checkpoint.pt").write_bytes(pickle.dumps(Code()))
    refused("checkpoint.pt")
    assert "this ran" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["checkpoint.pt", "config.json", "t5/spiece.model"])
def test_a_missing_file(source, refused, name):
    (source / name).unlink()
    refused(name.rpartition("/")[2])


def test_unknown_and_unsupported_settings(source, refused):
    config = json.loads((source / "config.json").read_text())
    for key, value, message in (
        ("flavour", 1, "unknown keys: flavour"),
        ("in_channels", 47, "do not fit 8 latent channels"),
        ("transformer", {**config["transformer"], "qk_norm": False}, "qk_norm = False"),
    ):
        (source / "config.json").write_text(json.dumps({**config, key: value}))
        refused(message)


def test_an_existing_folder_is_kept_without_force(source):
    target = source.parent / "out"
    target.mkdir()
    (target / "precious").touch()
    with pytest.raises(SAMAudioError, match="exists already.*--force"):
        convert(str(source), target)
    assert (target / "precious").exists()
    convert(str(source), target, force=True)
    assert not (target / "precious").exists()
    assert {path.name for path in source.parent.iterdir()} == {"source", "out"}


def test_too_little_disk(source, refused, monkeypatch):
    usage = shutil.disk_usage(source)._replace(free=1000)
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda _: usage)
    refused("the disk of .* has 0 MiB free")


def test_shards_hold_the_same_model(source, tiny_folder, monkeypatch):
    monkeypatch.setattr(folders, "SHARD", 300_000)
    target = convert(str(source), source.parent / "out", dtype="float32")
    index = json.loads((target / "model.safetensors.index.json").read_text())["weight_map"]
    whole = mx.load(str(tiny_folder / "model.safetensors"))
    assert set(index) == set(whole) and len(set(index.values())) > 2
    for name, file in index.items():
        assert mx.array_equal(mx.load(str(target / file))[name], whole[name]).item()
    SAMAudio.from_pretrained(target)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(source, dtype):
    folder = convert(str(source), source.parent / "out", dtype=dtype)
    weights = mx.load(str(folder / "model.safetensors"))
    assert {weight.dtype for weight in weights.values()} == {getattr(mx, dtype)}
    model = SAMAudio.from_pretrained(folder)
    model.network.set_dtype(getattr(mx, dtype))  # the CPU would compute in float32
    wave = np.random.default_rng(0).normal(0, 0.1, 4000).astype(np.float32)
    result = model.separate(wave, "dog", method="euler", steps=2)
    assert mx.isfinite(result.target).all().item()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_no_float32_in_a_half_precision_block(fresh_tiny, monkeypatch, dtype):
    """Products and attention of the blocks, and what runs between them, are in half precision."""
    network, seen = fresh_tiny.network, []
    network.set_dtype(getattr(mx, dtype))
    linear, attend, block = nn.Linear.__call__, dit.attend, dit.Block.__call__

    def spy(function):
        def call(*args):
            out = function(*args)
            arrays = [out, *(a for a in args if isinstance(a, mx.array))]
            seen.extend(a.dtype for a in arrays if a.dtype != mx.bool_)
            return out

        return call

    condition = network.condition(
        mx.zeros((1, 9, 8)), network.text_encoder(mx.array([[3, 1]]), mx.ones((1, 2), mx.bool_)),
        mx.ones((1, 2), mx.bool_), mx.zeros((1, 9), mx.int32),
    )  # fmt: skip
    (moment,) = network.moments([0.5], condition.text)
    monkeypatch.setattr(nn.Linear, "__call__", spy(linear))
    monkeypatch.setattr(dit, "attend", spy(attend))
    monkeypatch.setattr(dit.Block, "__call__", lambda *args: spy(block)(*args))
    v = network.velocity(mx.zeros((1, 9, 16)), moment, condition)
    assert v.dtype == mx.float32
    assert len(seen) > 50 and set(seen) == {getattr(mx, dtype)}


@pytest.mark.parametrize("bits, bound", [(8, 0.1), (6, 0.25), (4, 0.8)])
def test_quantised(source, tiny, bits, bound):
    """Blocks of transformer and T5 in few bits, loaded strictly; near the model in float32."""
    quantisation = QuantisationConfig(bits, 32)
    folder = convert(str(source), source.parent / "out", quantisation=quantisation)
    weights = mx.load(str(folder / "model.safetensors"))
    packed = [name for name, weight in weights.items() if weight.dtype == mx.uint32]
    assert packed and all(name.startswith(("transformer.", "text_encoder.")) for name in packed)
    model = SAMAudio.from_pretrained(folder)
    assert model.config.quantisation == quantisation
    wave = np.random.default_rng(0).normal(0, 0.1, 4000).astype(np.float32)
    result, exact = (m.separate(wave, "dog", steps=2, watermark=False) for m in (model, tiny))
    error = parity.relative_error(result.target, exact.target)
    assert 0 < error < bound
    # mlx-lm reads the same weights from it
    assert bits < compute_bits_per_weight(model.network) < 32
    model = SAMAudio(model.config, dequantize_model(model.network), model.tokenizer)
    read = model.separate(wave, "dog", steps=2, watermark=False)
    assert parity.relative_error(read.target, result.target) < 1e-4


def test_a_model_without_vision_and_watermark(source, edit):
    config = json.loads((source / "config.json").read_text())
    config["vision_encoder"], config["audio_codec"]["watermark"] = None, False
    (source / "config.json").write_text(json.dumps(config))

    def drop(state):
        keep = ("wm_model.encoder_block.pre.0.", "wm_model.encoder_block.pre.1.")
        for name in list(state):
            marked = ".wm_model." in name and not any(key in name for key in keep)
            parts = name.split(".")
            paired = name.startswith("audio_codec.decoder.model.") and parts[4:5] == ["block"]
            if marked or paired and parts[5] in ("3", "6", "7", "11"):
                del state[name]
            elif name.startswith(("vision_encoder", "align_masked_video")):
                del state[name]

    edit("checkpoint.pt", drop)
    model = SAMAudio.from_pretrained(convert(str(source), source.parent / "out", dtype="float32"))
    wave = np.random.default_rng(0).normal(0, 0.1, 4000).astype(np.float32)
    assert model.separate(wave, "dog", method="euler", steps=2).target.shape == (4000,)


def test_the_command(source, capsys):
    target = source.parent / "out"
    arguments = ["--hf-path", str(source), "--mlx-path", str(target)]
    assert main(arguments) == 0
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert f"wrote {target}" in output.out
    assert output.err.startswith("error: ") and output.err.count("\n") == 1
