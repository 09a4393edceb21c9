"""A converted folder is compared with its own record, with what training leaves, and with another
codec."""

import shutil

import mlx.core as mx
import pytest
import torch
from safetensors.torch import save_file
from test_load import change

from benchmarks.parity import TINY
from convert.__main__ import main
from convert.command import convert


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


@pytest.fixture
def second(tmp_path):
    """A copy of the checkpoint's codec, changed."""

    def make(change=lambda state: None, dtype=torch.float32):
        folder = tmp_path / "second"
        folder.mkdir(exist_ok=True)
        state = torch.load(TINY / "checkpoint.pt", weights_only=True)
        state = {k: v.to(dtype).clone() for k, v in state.items() if k.startswith("audio_codec.")}
        change(state)
        save_file(state, folder / "codec.safetensors")
        return str(folder)

    return make


def test_a_name_of_the_store(folder, store, capsys):
    shutil.copytree(folder, store / "small")
    assert main(["--verify", "small"]) == 0
    refused(capsys, "base", "there is no model folder base")


def refused(capsys, folder, message, *options):
    assert main(["--verify", str(folder), *options]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1, said


def test_a_model_as_it_was_converted(folder, second, capsys):
    assert main(["--verify", str(folder), "--codec-from", second()]) == 0
    first, trained, codec = capsys.readouterr().out.splitlines()
    assert first.endswith("6 files are what the conversion wrote")
    assert "training" in trained and "tensors of the codec are those of" in codec


@pytest.mark.parametrize("name", ["model.safetensors", "vision.safetensors", "LICENSE"])
def test_a_flipped_bit_is_named(folder, capsys, name):
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    refused(capsys, folder, f"{name} is not what the conversion wrote: its sha256 differs")


@pytest.mark.parametrize(
    "name",
    [
        "proj.mixture.bias", "embed_anchors.gate", "transformer.norm.weight",
        "audio_codec.encoder.block.0.bias", "audio_codec.watermark.encoder_lstm.layers.0.bias",
    ],
)  # fmt: skip
def test_what_was_never_loaded(folder, capsys, name):
    value = float(name.endswith("weight"))
    change(folder, lambda weights: weights.update({name: mx.full(weights[name].shape, value)}))
    refused(capsys, folder, f"as they were before any training 1 tensors: {name}")


def test_another_codec(folder, second, capsys):
    name = "audio_codec.decoder.model.2.block.1.weight_v"
    other = second(lambda state: state.update({name: state[name].flip(0)}))
    refused(capsys, folder, "holds another audio_codec.decoder.model.2", "--codec-from", other)
    other = second(lambda state: state.pop(name))
    refused(capsys, folder, f"the checkpoint lacks 1 tensors: {name}", "--codec-from", other)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_codec_in_another_precision(tmp_path, second, dtype):
    folder = convert(str(TINY), tmp_path / "half", dtype=dtype)
    for other in (torch.float32, torch.float16):
        assert main(["--verify", str(folder), "--codec-from", second(dtype=other)]) == 0


def test_quantised_and_other_models(tmp_path, converted, capsys):
    packed = ["--hf-path", str(TINY), "--mlx-path", str(tmp_path / "4bit"), "-q"]
    assert main([*packed, "--q-group-size", "32"]) == 0
    assert main(["--verify", str(tmp_path / "4bit")]) == 0
    assert main(["--verify", str(converted("judge"))]) == 0
    refused(capsys, converted("judge"), "holds no SAM-Audio", "--codec-from", str(TINY))


@pytest.mark.parametrize(
    "options, message",
    [
        (["--dtype", "float16"], "--verify writes nothing: leave out --dtype"),
        (["-q", "--video-from", "x"], "leave out --video-from, -q"),
        (["--hf-path", "small"], "not allowed with argument --verify"),
        (["--mlx-path", "x"], "leave out --mlx-path"),
    ],
)
def test_what_goes_with_it(folder, capsys, options, message):
    with pytest.raises(SystemExit) if "not allowed" in message else pytest.MonkeyPatch.context():
        assert main(["--verify", str(folder), *options]) == 2
    assert message in capsys.readouterr().err
