"""The converter uses every tensor once, or writes nothing."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile

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
from convert.torch_file import TorchWeights
from mlx_sam_audio import SAMAudio, SAMAudioError, files
from mlx_sam_audio.loading import manifest
from mlx_sam_audio.models import dit
from mlx_sam_audio.models.quantise import QuantisationConfig


def test_the_folder_is_complete(tiny_folder):
    names = {path.name for path in tiny_folder.iterdir()}
    weights = {"model.safetensors", "vision.safetensors"}
    described = {"config.json", "source.json", "spiece.model", "LICENSE", *weights}
    assert names == {"manifest.json", *described} and set(manifest.read(tiny_folder)) == described
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


@pytest.mark.parametrize("name", sorted(path.name for path in TINY.parent.glob("*/*.pt*")))
def test_tensors_are_those_that_pytorch_reads(name):
    (path,) = TINY.parent.glob(f"*/{name}") if name != "checkpoint.pt" else (TINY / name,)
    state, key = torch.load(path, weights_only=True), None
    if "state_dict" in state:
        state, key = state["state_dict"], "state_dict"
    weights = TorchWeights(path, key)
    assert weights.shapes == {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name, tensor in state.items():
        if tensor.is_floating_point() and 0 not in tensor.stride():
            assert np.array_equal(weights.read(name), tensor.numpy())


def test_tensors_of_other_forms(tmp_path):
    whole = torch.randn(6, 8)
    state = {
        "half": whole.half(), "bfloat16": whole.bfloat16(), "double": whole.double(),
        "bent": whole.T, "part": whole[1:5:2, 2:7:3], "number": torch.tensor(2.5),
        "parameter": torch.nn.Parameter(whole), "thin": whole[:1].as_strided((1, 8), (2**62, 1)),
    }  # fmt: skip
    torch.save(state, tmp_path / "x.pt")
    weights = TorchWeights(tmp_path / "x.pt")
    for name, tensor in state.items():
        assert np.array_equal(weights.read(name), tensor.detach().float().numpy())


class Code:
    def __init__(self, function=print, *arguments):
        self.call = function, arguments or ("this ran",)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("code", [Code(), Code(bytearray, 2**34), Code(exec, "1")])
def test_a_pickle_that_wants_to_run_code(source, refused, capsys, code):
    torch.save({"x": code}, source / "checkpoint.pt")
    refused("wants to run code")
    (source / "checkpoint.pt").write_bytes(pickle.dumps(code))
    refused("checkpoint.pt")
    assert "this ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "damaged or incomplete"),
        (b"N.", "no flat state dict"),
        (b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".", "no flat state dict"),
        (b"\x80\x02]r\xff\xff\xff\x7f.", "no flat state dict"),
        (b"\x80\x02X\xff\xff\xff\x7f.", "damaged or incomplete"),
        (b"\x80\x02]X\x01\x00\x00\x00aNs.", "damaged or incomplete"),
        (b"\x80\x02}" + b"(N\x85\x85" + b"Nu.", "neither a text nor a number"),
        (b"\x80\x05\x96" + (2**34).to_bytes(8, "little") + b".", "damaged or incomplete"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "uses STACK_GLOBAL"),
    ],
)
def test_a_damaged_pickle(source, refused, data, message):
    rezip(source / "checkpoint.pt", lambda name, old: data if name.endswith(".pkl") else old)
    refused(message)


def rezip(path, change, method=zipfile.ZIP_STORED, more=()):
    """Other members with right checksums; those that become None are left out."""
    with zipfile.ZipFile(path) as file:
        members = {name: change(name, file.read(name)) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in [*members.items(), *more]:
            if data is not None:
                file.writestr(name, data)


@pytest.mark.parametrize("cut", [lambda x: b"", lambda x: x[: len(x) // 2], lambda x: x * 2])
def test_numbers_of_another_tensor_are_not_read(source, refused, cut):
    state = torch.load(source / "checkpoint.pt", weights_only=True)
    place = list(state).index("proj.weight")
    rezip(
        source / "checkpoint.pt",
        lambda name, data: cut(data) if name.endswith(f"/data/{place}") else data,
    )
    refused("does not hold the numbers of proj.weight, or not all")


def test_a_bit_of_a_checkpoint(source, refused):
    path = source / "checkpoint.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    refused("the checksum of checkpoint/data/.* differs")


def test_zips_that_pytorch_does_not_write(source, refused):
    path, original = source / "checkpoint.pt", (source / "checkpoint.pt").read_bytes()
    rezip(path, lambda name, data: data, zipfile.ZIP_DEFLATED)
    refused("its parts are compressed")
    path.write_bytes(original)
    with pytest.warns(UserWarning, match="Duplicate name"):
        rezip(path, lambda name, data: data, more=[("checkpoint/data/1", b"")])
    refused("two of its parts have one name")
    path.write_bytes(original)
    rezip(path, lambda name, data: None if name.endswith("data.pkl") else data)
    refused("damaged or incomplete")
    path.write_bytes(original)
    rezip(path, lambda name, data: b"big" if name.endswith("byteorder") else data)
    refused("not little-endian")


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda x: x.to(torch.int32), "in Int: weights are floating-point"),
        (lambda x: x.to(torch.complex64), "in ComplexFloat: weights are floating-point"),
        (lambda x: x.to_sparse(), "proj.bias is no plain tensor"),
        (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "proj.bias is no plain"),
        (lambda x: x.to("meta"), "proj.bias is no plain tensor"),
        (lambda x: [1.0], "proj.bias is no plain tensor"),
        (lambda x: torch.zeros(1).expand(30_000, 30_000), "not hold the numbers of proj.bias"),
        (lambda x: torch.zeros(1).expand(48), "not hold the numbers of proj.bias"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # PyTorch's, of what is going to be removed
def test_tensors_that_are_not_plain(edit, refused, make, message):
    edit("checkpoint.pt", lambda state: state.update({"proj.bias": make(state["proj.bias"])}))
    refused(message)


@pytest.mark.parametrize("key", [5, ("proj", "bias")])
def test_names_that_are_no_texts(edit, refused, key):
    edit("checkpoint.pt", lambda state: state.update({key: state.pop("proj.bias")}))
    refused("checkpoint.pt (holds no flat state dict: 5|is not a plain set of weights)")


def test_shapes_that_would_broadcast(edit, refused):
    """To a product of what the file holds."""
    name = "audio_codec.encoder.block.0.weight_g"
    edit("checkpoint.pt", lambda state: state.update({name: torch.zeros(1, 10_000, 1)}))
    refused("weight_g, .*weight_v do not have the shapes of such weights")


@pytest.mark.parametrize("name", ["checkpoint.pt", "config.json", "t5/spiece.model"])
def test_a_missing_file(source, refused, name):
    (source / name).unlink()
    refused(name.rpartition("/")[2])


@pytest.mark.parametrize(
    "edit_config, message",
    [
        (lambda c: c.update(flavour=1), "unknown keys: flavour"),
        (lambda c: c.update(in_channels=47), "do not fit 8 latent channels"),
        (lambda c: c["transformer"].update(qk_norm=False), "qk_norm is False, expected True"),
        (lambda c: c["transformer"].update(qk_norm=1), "qk_norm is 1, expected True"),
        (
            lambda c: c["transformer"].update(n_layers=10**6),
            "n_layers is 1000000, expected a whole",
        ),
        (lambda c: c["transformer"].update(ffn_exp=float("inf")), "Infinity is no number of JSON"),
        (lambda c: c["transformer"].update(ffn_dim_multiplier=99, ffn_exp=99), "ffn_dim is"),
        (
            lambda c: c["audio_codec"].update(encoder_rates=[0]),
            r"encoder_rates\[0\] is 0, expected",
        ),
        (lambda c: c["audio_codec"].update(encoder_rates=7), "encoder_rates is 7, expected a list"),
        (lambda c: c["audio_codec"].update(mean=1), "audio_codec.mean is 1.0, expected"),
        (lambda c: c["text_encoder"].update(max_length=2**40), "max_length is 1099511627776"),
        (lambda c: c.update(vision_encoder=[]), r"vision_encoder is \[\], expected an object"),
    ],
)
def test_unknown_and_unsupported_settings(edit, refused, edit_config, message):
    edit("config.json", edit_config)
    refused(message)


@pytest.mark.parametrize("key, value", [("vocab_size", 78), ("num_layers", 2.5), ("d_ff", None)])
def test_settings_of_the_text_encoder(edit, refused, key, value):
    edit("t5/config.json", lambda values: values.update({key: value}))
    refused("the network only 78" if key == "vocab_size" else f"{key} is .*, expected a whole")


@pytest.mark.parametrize("name", ["../t5", "/etc", "..", "~/t5", "someone/t5-base", "t6"])
def test_a_checkpoint_does_not_choose_where_its_text_encoder_lies(source, edit, refused, name):
    shutil.copytree(source / "t5", source.parent / "t5")
    edit("config.json", lambda values: values["text_encoder"].update(name=name))
    with pytest.raises(SAMAudioError, match="wants the text encoder .*--text-encoder"):
        convert(str(source), source.parent / "out")
    convert(str(source), source.parent / "out", text_encoder=str(source.parent / "t5"))


def test_a_text_encoder_in_bfloat16(source, edit, tiny_folder):
    weights = mx.load(str(source / "t5" / "model.safetensors"))
    half = {name: value.astype(mx.bfloat16) for name, value in weights.items()}
    mx.save_safetensors(str(source / "t5" / "model.safetensors"), half)
    folder = convert(str(source), source.parent / "out")
    name = "text_encoder.shared.weight"
    written = [mx.load(str(path / "model.safetensors"))[name] for path in (folder, tiny_folder)]
    assert mx.array_equal(written[0], written[1].astype(mx.bfloat16)).item()


def test_an_existing_folder_is_kept_without_force(source):
    target = source.parent / "out"
    convert(str(source), target)
    with pytest.raises(SAMAudioError, match="exists already.*--force"):
        convert(str(source), target)
    before = manifest.read(target)["model.safetensors"]
    convert(str(source), target, dtype="float16", force=True)
    assert manifest.read(target)["model.safetensors"] != before
    assert {path.name for path in source.parent.iterdir()} == {"source", "out"}


def test_only_a_model_is_replaced(source, tiny_folder):
    target = source.parent / "out"
    target.mkdir()
    convert(str(source), target, force=True)  # an empty folder holds nothing to lose
    (target / "thesis.txt").touch()
    with pytest.raises(SAMAudioError, match="not replaced: it holds thesis.txt, which no conv"):
        convert(str(source), target, force=True)
    (target / "manifest.json").unlink()
    (target / "source.json").unlink()
    with pytest.raises(SAMAudioError, match="not replaced: it holds LICENSE"):
        convert(str(source), target, force=True)
    assert (target / "thesis.txt").exists() and len(list(target.iterdir())) == 6
    shutil.copy(tiny_folder / "source.json", target)
    convert(str(source), target, force=True)  # made before there was a manifest


@pytest.mark.parametrize("target", ["source", ".", "source/out"])
def test_the_source_is_not_replaced(source, tiny_folder, target):
    target = source.parent / target
    shutil.copytree(tiny_folder, target, dirs_exist_ok=True)
    before = sorted(source.parent.rglob("*"))
    with pytest.raises(SAMAudioError, match="is not replaced: what is converted lies in"):
        convert(str(source), target, force=True)
    assert sorted(source.parent.rglob("*")) == before


def test_a_link_stays_a_link(source):
    link, real = source.parent / "link", source.parent / "real"
    link.symlink_to(real)
    for dtype in ("float32", "float16"):
        convert(str(source), link, dtype=dtype, force=True)
        assert link.is_symlink() and SAMAudio.from_pretrained(link).config.dtype == dtype
        assert {path.name for path in source.parent.iterdir()} == {"source", "link", "real"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(5, "broken")])
@pytest.mark.parametrize("step", [1, 2])
def test_a_conversion_that_dies_while_it_replaces(source, monkeypatch, step, error):
    """When the old model is put aside, and when the new one takes its place."""
    target = convert(str(source), source.parent / "out")
    replace, places = os.replace, []

    def dying(old, new):
        places.append(new)
        if places.count(target) + places.count(folders.aside(target)) == step:
            monkeypatch.setattr(os, "replace", replace)
            raise error
        replace(old, new)

    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises((KeyboardInterrupt, SAMAudioError)):
        convert(str(source), target, dtype="float16", force=True)
    assert {path.name for path in source.parent.iterdir()} == {"source", "out"}
    assert SAMAudio.from_pretrained(target).config.dtype == "float32"


def test_a_conversion_that_is_killed_while_it_replaces(source):
    target = convert(str(source), source.parent / "out")
    target.rename(folders.aside(target))
    with pytest.raises(SAMAudioError, match="exists already"):
        convert(str(source), target)
    assert SAMAudio.from_pretrained(target).config.dtype == "float32"
    shutil.copytree(target, folders.aside(target))  # as if killed before this was removed
    convert(str(source), target, dtype="float16", force=True)
    assert {path.name for path in source.parent.iterdir()} == {"source", "out"}


def test_what_a_killed_conversion_left_is_swept(source):
    done = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True
    )
    left = source.parent / f".{files.HOST}.{int(done.stdout)}.0.sam-audio-part"
    left.mkdir()
    (left / "model.safetensors").touch()
    convert(str(source), source.parent / "out")
    assert not left.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_nothing_is_left_behind(source, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(folders.manifest, "write", fail)
    with pytest.raises((KeyboardInterrupt, SAMAudioError)):
        convert(str(source), source.parent / "new" / "folders" / "out")
    assert [path.name for path in source.parent.iterdir()] == ["source"]


def test_what_was_written_is_read_back(refused, monkeypatch):
    save = mx.save_safetensors

    def spoil(path, tensors, **more):
        name = next(iter(tensors))
        save(path, {**tensors, name: tensors[name] + 1}, **more)

    monkeypatch.setattr(mx, "save_safetensors", spoil)
    refused("what was written reads otherwise")


def test_a_new_model_is_not_read_again(source, store, monkeypatch):
    monkeypatch.setattr(manifest, "SMALL", 1000)
    folder = convert(str(source))
    assert folder == store / "source" and len(list((store / ".verified").iterdir())) == 1
    sha256, read = manifest.sha256, []
    monkeypatch.setattr(manifest, "sha256", lambda *what: (read.append(what), sha256(*what))[1])
    SAMAudio.from_pretrained(folder)
    assert (folder / "source.json",) in read
    assert (folder / "model.safetensors",) not in read


@pytest.mark.parametrize(
    "name, message",
    [
        ("smal", "no folder and no repo smal: did you mean small?"),
        ("~nobody2/x", "there is no folder ~nobody2/x"),
        ("x" * 300, "there is no folder xxx"),
        ("a\0b", "there is no folder a"),
    ],
)
def test_no_such_checkpoint(source, monkeypatch, name, message):
    monkeypatch.setattr("huggingface_hub.HfApi", None)
    with pytest.raises(SAMAudioError, match=message):
        convert(name, "out")
    if name != "smal":
        with pytest.raises(SAMAudioError, match=message):
            convert(str(source), name)


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
