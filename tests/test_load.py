"""The loader returns a whole model, every weight as it was converted, or an error."""

import json
import os
import shutil
from dataclasses import replace

import mlx.core as mx
import pytest
from huggingface_hub import errors
from mlx.utils import tree_flatten

from mlx_sam_audio import SAMAudio, SAMAudioError, SAMAudioWarning
from mlx_sam_audio.command import choice
from mlx_sam_audio.loading import load, manifest
from mlx_sam_audio.loading.store import resolve
from mlx_sam_audio.loading.tokenizers import JSONTokenizer, SentencePieceTokenizer
from mlx_sam_audio.models.modernbert import ModernBertConfig
from mlx_sam_audio.models.roberta import RobertaConfig
from mlx_sam_audio.models.sam_audio import ModelConfig
from mlx_sam_audio.ranking.judge import Judge
from mlx_sam_audio.span_predictor import SpanPredictor


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


@pytest.fixture
def large(monkeypatch):
    """Files of more than a kilobyte are large."""
    monkeypatch.setattr(manifest, "SMALL", 1000)


TEXTS = {
    "clap": RobertaConfig(420, 32, 4, 3, 64, 1e-5, 514, 1, 77),
    "judge": ModernBertConfig(425, 48, 4, 6, 72, 1e-5, 3, 8, 160_000.0, 10_000.0, 423, 512),
}


def change(folder, edit):
    """Other weights, as if they had been converted so."""
    weights = mx.load(str(folder / "model.safetensors"))
    edit(weights)
    mx.save_safetensors(str(folder / "changed.safetensors"), weights)
    (folder / "changed.safetensors").replace(folder / "model.safetensors")
    manifest.write(folder)


def flip(path, place, keep_time=True):
    """Change one bit; `stat` tells no difference."""
    data, status = bytearray(path.read_bytes()), path.stat()
    data[place] ^= 1
    path.write_bytes(data)
    if keep_time:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def fails(folder, message, **options):
    with pytest.raises(SAMAudioError, match=message):
        SAMAudio.from_pretrained(folder, **options)


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


@pytest.mark.parametrize("dtype", [mx.int32, mx.float16])
def test_a_tensor_of_another_type(folder, dtype):
    change(folder, lambda weights: weights.update({"proj.mixture.bias": mx.zeros(48, dtype)}))
    fails(folder, "mistyped 1 tensors: proj.mixture.bias [IF](16|32) instead of F32")


@pytest.mark.parametrize(
    "edit", [lambda data: data[:-1000], lambda data: data + bytes(8), lambda data: data[:50]]
)
def test_weights_with_too_little_or_too_much(folder, edit):
    path = folder / "model.safetensors"
    path.write_bytes(edit(path.read_bytes()))
    fails(folder, "model.safetensors is not what the conversion wrote: it has .* bytes instead")
    manifest.write(folder)
    fails(folder, "cannot read .*model.safetensors")


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    fails(folder, "model.safetensors is missing")
    manifest.write(folder)
    fails(folder, "holds no model")


@pytest.mark.parametrize("name", ["model.safetensors", "vision.safetensors", "spiece.model"])
@pytest.mark.parametrize("place", [100, -1])
def test_one_bit(folder, name, place):
    flip(folder / name, place)
    fails(folder, f"{name} is not what the conversion wrote: its sha256 differs; convert or down")


def test_one_bit_of_a_large_file(folder, store, large):
    """Read whole where it was never seen, and when asked for; its header always."""
    SAMAudio.from_pretrained(folder)
    (stamp,) = (store / ".verified").iterdir()
    assert stamp.stat().st_size == 0
    flip(folder / "model.safetensors", -1)
    SAMAudio.from_pretrained(folder)
    fails(shutil.copytree(folder, folder.with_name("copy")), "its sha256 differs")
    fails(folder, "its sha256 differs", verify=True)
    fails(folder, "its sha256 differs")
    flip(folder / "model.safetensors", -1)
    SAMAudio.from_pretrained(folder)
    flip(folder / "model.safetensors", 100)
    fails(folder, "its header differs")


def test_a_large_file_of_another_time(folder, store, large):
    SAMAudio.from_pretrained(folder)
    flip(folder / "model.safetensors", -1, keep_time=False)
    fails(folder, "its sha256 differs")


def test_without_a_home(folder, monkeypatch, large):
    def home():
        raise RuntimeError("no home")

    monkeypatch.delenv("SAM_AUDIO_HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.home", home)
    SAMAudio.from_pretrained(folder)
    fails("small", "set HOME")


def test_models_lie_where_the_environment_says(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for place, given in ((tmp_path / ".cache/mlx-sam-audio", ""), (tmp_path / "far", "~/far")):
        monkeypatch.setenv("SAM_AUDIO_HOME", given)
        shutil.copytree(folder, place / "small")
        assert resolve("small") == place / "small"
    (tmp_path / "file").touch()
    monkeypatch.setenv("SAM_AUDIO_HOME", "~/file")
    fails("small", "file is a file: set SAM_AUDIO_HOME to a folder")


def test_a_store_that_is_a_file(folder, store, large):
    store.write_text("no folder")
    for verify in (False, True):
        SAMAudio.from_pretrained(folder, verify=verify)


def test_a_config_of_the_format_before(folder):
    """In which nothing could be missing."""
    values = json.loads((folder / "config.json").read_text())
    assert (values.pop("missing"), values.pop("video_constant"), values["format"]) == ([], False, 4)
    (folder / "config.json").write_text(json.dumps({**values, "format": 3}))
    manifest.write(folder)
    assert load.read(ModelConfig, folder) == SAMAudio.from_pretrained(folder).config
    assert load.read(ModelConfig, folder).format == 4
    (folder / "config.json").write_text(json.dumps({**values, "format": 3, "missing": []}))
    manifest.write(folder)
    fails(folder, "lacks video_constant")


def test_weights_of_another_model(folder):
    shutil.copy(folder / "vision.safetensors", folder / "model-2.safetensors")
    fails(folder, "model-2.safetensors is no part of the model")
    (folder / "model-2.safetensors").rename(folder / "._model.safetensors")  # macOS makes such
    SAMAudio.from_pretrained(folder)


def test_a_folder_of_an_older_version(folder):
    (folder / "manifest.json").unlink()
    fails(folder, "holds no manifest.json.*convert it again")


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda m: m.clear(), "manifest.json lacks files"),
        (lambda m: m["files"].update({"../x": m["files"]["config.json"]}), "lies elsewhere"),
        (lambda m: m["files"]["config.json"].update(bytes=-1), "config.json.bytes is -1, expected"),
    ],
)
def test_a_wrong_manifest(folder, edit, message):
    values = json.loads((folder / "manifest.json").read_text())
    edit(values)
    (folder / "manifest.json").write_text(json.dumps(values))
    fails(folder, message)


@pytest.mark.parametrize(
    "name, message", [("spiece.model", "SentencePiece"), ("config.json", "cannot read")]
)
def test_a_damaged_file(folder, name, message):
    (folder / name).write_text("nonsense")
    manifest.write(folder)
    fails(folder, message)
    (folder / name).unlink()
    manifest.write(folder)
    fails(folder, f"holds no {name}")


@pytest.mark.parametrize("name", ["config.json", "manifest.json", "model.safetensors"])
def test_a_pipe_is_not_waited_for(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    fails(folder, name)


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda c: c.pop("codec"), "lacks codec"),
        (lambda c: c.update(color=1), "has unknown keys: color"),
        (lambda c: c["codec"].pop("latent_dim"), "codec lacks latent_dim"),
        (lambda c: c.update(format=99), "has format 99"),
        (lambda c: c.update(dtype="int8"), "dtype is 'int8', expected 'float32' or"),
        (lambda c: c.pop("model_type"), "not a converted model"),
        (lambda c: c.update(model_type=[]), "not a converted model"),
        (lambda c: c.update(codec=None), "codec is None, expected an object"),
        (lambda c: c.update(num_anchors=True), "num_anchors is True, expected a whole number"),
        (lambda c: c.update(num_anchors=2), "num_anchors is 2, expected a whole number from 3"),
        (lambda c: c["text"].update(vocab_size="83"), "text.vocab_size is '83', expected a whole"),
        (lambda c: c["text"].update(eps=0), "text.eps is 0.0, expected a number from"),
        (lambda c: c["text"].update(num_layers=10**6), "num_layers is 1000000, expected"),
        (
            lambda c: c["codec"].update(encoder_rates=[2**40]),
            r"encoder_rates\[0\] is 1099511627776",
        ),
        (lambda c: c["codec"].update(encoder_rates=[1000] * 8), "a frame has more than 65536"),
        (lambda c: c["codec"].update(decoder_rates=[2, 2]), "decoder_rates and encoder_rates"),
        (lambda c: c["transformer"].update(n_heads=7), "a width of 48 is not 7 heads"),
        (lambda c: c["transformer"].update(out_channels=8), "out_channels are not two stems"),
        (lambda c: c["vision"].update(patch_size=7), "image_size is no multiple of patch_size"),
        (lambda c: c["text"].update(max_distance=8), "max_distance is too short"),
        (lambda c: c.update(missing=["vision encoder"]), "missing names what is there"),
        (lambda c: c.update(missing=["vision"]), "missing.0. is 'vision', expected 'video align"),
        (lambda c: c.update(video_constant=True), "video_constant goes without vision"),
    ],
)
def test_a_wrong_config(folder, edit, message):
    config = json.loads((folder / "config.json").read_text())
    edit(config)
    (folder / "config.json").write_text(json.dumps(config))
    fails(folder, message)


@pytest.mark.parametrize(
    "text, message",
    [
        (b"[" * 200_000, "cannot read"),
        (b'{"a":' * 100_000, "cannot read"),
        (b'{"a": 1, "b": 2, "a": 1}', "'a' stands there twice"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "cannot read"),
        (b'\xef\xbb\xbf{"a": 1}', "BOM"),
        (b'{"\xff": 1}', "cannot read"),
        (b"[1]", "holds no JSON object"),
        (b" " * 5 * 2**20, "has more than 4194304 bytes"),
    ],
)
def test_odd_json(folder, text, message):
    (folder / "config.json").write_bytes(text)
    fails(folder, message)


def test_more_tokens_than_the_network_has(tiny_folder):
    config = load.read(ModelConfig, tiny_folder).text
    path = tiny_folder / "spiece.model"
    with pytest.raises(SAMAudioError, match="spiece.model has 79 tokens, but the network only 78"):
        SentencePieceTokenizer(path, replace(config, vocab_size=78))


@pytest.mark.parametrize("name", ["clap", "judge"])
def test_a_text_without_its_marks(converted, tmp_path, name):
    values = json.loads((converted(name) / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**values, "post_processor": None}))
    with pytest.raises(SAMAudioError, match="tokenizer.json puts 0 marks around a text"):
        JSONTokenizer(tmp_path / "tokenizer.json", TEXTS[name])


@pytest.mark.parametrize("kind", ["added_tokens", "vocab", "post_processor"])
@pytest.mark.parametrize("name", ["clap", "judge"])
def test_a_token_beyond_the_vocabulary(converted, tmp_path, name, kind):
    """Its embedding would be read from beyond the table."""
    folder = converted(name)
    values, config = json.loads((folder / "tokenizer.json").read_text()), TEXTS[name]
    if kind == "vocab":
        values["model"]["vocab"]["new"] = 1000
    elif kind == "added_tokens":
        values[kind].append({**values[kind][0], "id": 1000, "content": "<new>"})
    else:
        next(iter(values[kind]["special_tokens"].values()))["ids"] = [1000]
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    JSONTokenizer(folder / "tokenizer.json", config)
    with pytest.raises(SAMAudioError, match="has a token .*but the network only"):
        JSONTokenizer(tmp_path / "tokenizer.json", config)


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
        choice.largest_that_fits(None, 10)
    shutil.copytree(folder, store / "small")
    assert resolve("small") == store / "small"
    assert choice.largest_that_fits(None, 10)[0] == "small"
    assert "the largest in" in choice.largest_that_fits(None, 10)[1]


def test_broken_models_do_not_stand_in_the_way(folder, store):
    shutil.copytree(folder, store / "small")
    for name, text in (("base", "{"), ("large", '{"model_type": "sam_audio", "format": 3}')):
        (store / name).mkdir()
        (store / name / "config.json").write_text(text)
    shutil.copytree(folder, store / "old")
    (store / "old" / "manifest.json").unlink()
    shutil.copytree(folder, store / ".host.1.0.sam-audio-part")
    with pytest.warns(SAMAudioWarning) as said:
        assert choice.largest_that_fits(None, 10)[0] == "small"
    notes = [str(warning.message) for warning in said]
    assert [note.split(" is left out: ")[0] for note in notes] == [
        "the model base", "the model large", "the model old",
    ]  # fmt: skip


def test_what_a_killed_conversion_put_aside_is_found(folder, store):
    for find in (resolve, lambda name: choice.largest_that_fits(None, 10)):
        shutil.copytree(folder, store / ".small.replaced")
        find("small")
        assert [path.name for path in store.iterdir()] == ["small"]
        shutil.rmtree(store / "small")


@pytest.mark.parametrize(
    "name, message",
    [
        ("./nowhere", "there is no model folder ./nowhere"),
        ("smal", "no model of that name in .*: did you mean small?"),
        ("judgee", "did you mean judge?"),
        ("~nobody2/x", "there is no folder ~nobody2/x"),
        ("a\0b", "there is no folder a"),
        ("x" * 300, "there is no folder xxx"),
        ("owner/", "there is no model folder owner/"),
    ],
)
def test_no_such_model(store, monkeypatch, name, message):
    monkeypatch.setattr("huggingface_hub.HfApi", None)
    fails(name, message)


@pytest.mark.parametrize(
    "error, message",
    [
        (errors.GatedRepoError, "gated: ask for access at .*some/model.*hf auth login"),
        (errors.RepositoryNotFoundError, "no public hub repo 'some/model'"),
        (errors.LocalEntryNotFoundError, "cannot download some/model: http.* is not reached"),
    ],
)
def test_a_repo_that_cannot_be_had(monkeypatch, error, message):
    def refuse(*args, **kwargs):
        raised = error.__new__(error)
        Exception.__init__(raised, "no")
        raise raised

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    fails("some/model", message)
