"""The loader returns a whole model or an error."""

import json
import shutil

import mlx.core as mx
import pytest
from huggingface_hub import errors
from mlx.utils import tree_flatten

from mlx_sam_audio import SAMAudio, SAMAudioError, load
from mlx_sam_audio.judge import Judge
from mlx_sam_audio.span_predictor import SpanPredictor


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


def change(folder, edit):
    weights = mx.load(str(folder / "model.safetensors"))
    edit(weights)
    mx.save_safetensors(str(folder / "changed.safetensors"), weights)
    (folder / "changed.safetensors").replace(folder / "model.safetensors")


def fails(folder, message):
    with pytest.raises(SAMAudioError, match=message):
        SAMAudio.from_pretrained(folder)


def test_loaded_weights_are_the_files(tiny_folder):
    weights = mx.load(str(tiny_folder / "model.safetensors"))
    loaded = dict(tree_flatten(SAMAudio.from_pretrained(tiny_folder).network.parameters()))
    assert set(weights) == set(loaded)
    assert all(mx.array_equal(weights[name], loaded[name]).item() for name in weights)


def test_a_missing_tensor(folder):
    change(folder, lambda weights: weights.pop("proj.mixture.bias"))
    fails(folder, "lacks 1 tensors: proj.mixture.bias")


def test_an_unknown_tensor(folder):
    change(folder, lambda weights: weights.update({"proj.extra": mx.zeros(3)}))
    fails(folder, "unknown 1 tensors: proj.extra")


def test_a_misshapen_tensor(folder):
    change(folder, lambda weights: weights.update({"proj.mixture.bias": mx.zeros(3)}))
    fails(folder, r"misshapen 1 tensors: proj.mixture.bias \(3,\) instead of \(48,\)")


def test_only_the_first_ten_are_named(folder):
    change(folder, lambda weights: [weights.pop(k) for k in list(weights)[:15]])
    fails(folder, "lacks 15 tensors: .* and 5 more")


def test_a_truncated_file(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    fails(folder, "cannot read .*model.safetensors")


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    fails(folder, "holds no model")


@pytest.mark.parametrize(
    "name, message", [("spiece.model", "SentencePiece"), ("config.json", "cannot read")]
)
def test_a_damaged_file(folder, name, message):
    (folder / name).write_text("nonsense")
    fails(folder, message)
    (folder / name).unlink()
    fails(folder, f"holds no {name}")


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda c: c.pop("codec"), "missing codec"),
        (lambda c: c.update(color=1), "unknown color"),
        (lambda c: c["codec"].pop("latent_dim"), "codec: missing latent_dim"),
        (lambda c: c.update(format=99), "has format 99"),
        (lambda c: c.update(dtype="int8"), "dtype is 'int8'"),
        (lambda c: c.pop("model_type"), "not a converted model"),
    ],
)
def test_a_wrong_config(folder, edit, message):
    config = json.loads((folder / "config.json").read_text())
    edit(config)
    (folder / "config.json").write_text(json.dumps(config))
    fails(folder, message)


@pytest.mark.parametrize(
    "name, model, message",
    [
        ("pe_a_frame", SAMAudio, "a span predictor, where a separation model is needed"),
        ("tiny", SpanPredictor, "a separation model, where a span predictor is needed"),
        ("judge", SpanPredictor, "a judge, where a span predictor is needed"),
        ("clap", Judge, "a CLAP ranker, where a judge is needed"),
        ("imagebind", Judge, "an ImageBind ranker, where a judge is needed"),
    ],
)
def test_models_are_not_mixed_up(converted, name, model, message):
    with pytest.raises(SAMAudioError, match=f"belongs to {message}"):
        model.from_pretrained(converted(name))


def test_the_local_store(folder, store):
    fails("small", "not converted yet: run `python -m convert --hf-path small`")
    with pytest.raises(SAMAudioError, match="no converted model"):
        load.largest_that_fits(None, 10)
    shutil.copytree(folder, store / "small")
    assert load.resolve("small") == store / "small"
    assert load.largest_that_fits(None, 10)[0] == "small"
    assert "the largest in" in load.largest_that_fits(None, 10)[1]


def test_no_such_model():
    fails("./nowhere", "there is no model folder ./nowhere")


@pytest.mark.parametrize(
    "error, message",
    [
        (errors.GatedRepoError, "gated: ask for access at .*some/model.*hf auth login"),
        (errors.RepositoryNotFoundError, "no public hub repo 'some/model'"),
        (errors.LocalEntryNotFoundError, "cannot download some/model"),
    ],
)
def test_a_repo_that_cannot_be_had(monkeypatch, error, message):
    def refuse(*args, **kwargs):
        raised = error.__new__(error)
        Exception.__init__(raised, "no")
        raise raised

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    fails("some/model", message)
