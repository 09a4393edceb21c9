"""Models of the hub: little is asked for before it is known what a repo is, one download, one
conversion, then nothing more; each refusal is a sentence. The hub is our own, on this machine."""

import io
import json
import re
import shutil
import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest
import soundfile
import torch
from hub import Fault, Hub, pointed_at
from published import mlx_audio_layout, plain_codec
from safetensors.torch import save

from benchmarks.parity import TINY
from convert.__main__ import main
from convert.command import REPOS, convert
from mlx_sam_audio import SAMAudio, SAMAudioError, SAMAudioWarning
from mlx_sam_audio.loading import load
from mlx_sam_audio.loading.store import ORIGINALS, resolve
from mlx_sam_audio.loading.strict_json import read_json
from mlx_sam_audio.models.sam_audio import ModelConfig
from mlx_sam_audio.separate import main as separate
from mlx_sam_audio.span_predictor import SpanPredictor

SMALL = "mlx-community/sam-audio-small-fp16"
pytestmark = pytest.mark.filterwarnings("ignore:the model .* lacks")


@pytest.fixture(scope="module")
def published() -> dict[str, dict[str, bytes]]:
    """The files of repos as they are published, but small."""
    config = json.loads((TINY / "config.json").read_text())
    config["text_encoder"]["name"] = "t5-base"
    state = torch.load(TINY / "checkpoint.pt", weights_only=True)
    state = {name: value for name, value in state.items() if not name.startswith("audio_codec.")}
    state |= plain_codec(config)
    told, license = json.dumps(config).encode(), b"SAM License of Meta"
    half = {name: value.half().contiguous() for name, value in mlx_audio_layout(state).items()}
    aligned = {k: v for k, v in state.items() if not k.startswith(("vision", "audio_codec."))}
    aligned["transformer.unused.weight"] = torch.zeros(2**18)  # what need not be read of it
    checkpoint = io.BytesIO()
    torch.save(state, checkpoint)
    return {
        SMALL: {"config.json": told, "model.safetensors": save(half, {"format": "mlx"})},
        "t5-base": {path.name: path.read_bytes() for path in (TINY / "t5").iterdir()},
        "audioghostai/sam-audio-small": {
            "config.json": told,
            "model.fp32.safetensors": save(aligned),
        },
        "mrfakename/sam-audio-small": {
            "config.json": told, "checkpoint.pt": checkpoint.getvalue(), "LICENSE": license,
        },
        "facebook/sam-audio-small": {"config.json": told, "checkpoint.pt": checkpoint.getvalue()},
        "someone/bert": {"config.json": b'{"model_type": "bert"}', "model.safetensors": save(half)},
    }  # fmt: skip


@pytest.fixture
def hub(published, store, tmp_path, monkeypatch):
    with Hub() as hub:
        for name, files in published.items():
            hub.add(name, files, gated=name.startswith("facebook/"))
        pointed_at(hub, monkeypatch, tmp_path / "cache")
        yield hub


def asked(hub) -> list[str]:
    """The files whose bytes were sent, and what else was asked, in order."""
    return [each.file or each.path for each in hub.requests if each.method == "GET"]


def fails(message: str, name: str = SMALL, **options) -> None:
    with pytest.raises(SAMAudioError, match=message):
        SAMAudio.from_pretrained(name, **options)


def left(store) -> list[str]:
    return sorted(path.name for path in store.glob("*")) if store.exists() else []


def test_two_commands_from_nothing_to_a_separation(hub, store, tmp_path):
    """The second one: one download, then the store alone, with the hub gone."""
    wave = np.random.default_rng(0).normal(0, 0.1, 9600).astype(np.float32)
    soundfile.write(tmp_path / "mix.wav", wave, 48_000)
    command = [sys.executable, "-m", "mlx_sam_audio.separate", "-i", str(tmp_path / "mix.wav")]
    command += ["-d", "a dog barking", "-m", SMALL, "--steps", "1", "-o", str(tmp_path / "out.wav")]
    where = {**hub.environment(tmp_path / "home"), "SAM_AUDIO_HOME": str(store)}
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, env=where)
        assert done.returncode == 0, done.stderr
        note = (
            "note: the model mlx-community--sam-audio-small-fp16 lacks Meta's video alignment and"
        )
        assert done.stderr.count(note) == 1
        assert "lacks     video alignment, vision encoder" in done.stdout
        hub.stop()
    assert left(store) == ["mlx-community--sam-audio-small-fp16"]
    assert soundfile.info(tmp_path / "out.wav").frames == 9600


def test_what_is_asked_for(hub, store, published):
    """config.json and lists of files, then headers; weights when all of that will do; once."""
    folder = resolve(SMALL)
    assert folder == store / SMALL.replace("/", "--")
    sent = [each for each in hub.requests if each.file]
    large = [each for each in sent if each.file == "model.safetensors"]
    assert [each.range for each in large[:1]] == ["bytes=0-7"]
    assert {each.file for each in sent[: sent.index(large[4])]} == {
        "config.json", "spiece.model", "model.safetensors",
    }  # fmt: skip
    whole = len(published[SMALL]["model.safetensors"])
    assert hub.sent("model.safetensors", SMALL) < whole * 1.2  # with its header
    assert load.read(ModelConfig, folder).dtype == "float16"
    told = read_json(folder / "source.json")
    assert told["checkpoint"]["repo"] == SMALL and len(told["checkpoint"]["revision"]) == 40
    assert (folder / "LICENSE").read_text().startswith("SAM License")
    hub.requests.clear()
    assert resolve(SMALL) == folder and not hub.requests


def test_an_import_is_the_conversion(hub, store, tmp_path):
    """In float32 and filled in, what was imported is what Meta's checkpoint becomes."""
    whole = convert("mrfakename/sam-audio-small")
    assert whole == store / "mrfakename--sam-audio-small"
    assert (whole / "LICENSE").read_text() == "SAM License of Meta"
    convert(SMALL, tmp_path / "half", video_from="mrfakename/sam-audio-small")
    convert("mrfakename/sam-audio-small", tmp_path / "halved", dtype="float16")
    ours, theirs = (mx.load(str(tmp_path / x / "model.safetensors")) for x in ("half", "halved"))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():  # what is folded differs: weight norm was rounded before
        value, made = value.astype(mx.float32), ours[name].astype(mx.float32)
        assert mx.abs(made - value).max().item() <= 2**-9 * mx.abs(value).max().item(), name


def test_the_constant_is_read_by_ranges(hub, store, tmp_path, published):
    place = "audioghostai/sam-audio-small"
    folder = convert(SMALL, video_from=place)
    config = read_json(folder / "config.json")
    assert config["missing"] == ["vision encoder"] and config["video_constant"] is True
    header = int.from_bytes(published[place]["model.fp32.safetensors"][:8], "little")
    assert hub.sent("model.fp32.safetensors") - header < 18_000
    assert read_json(folder / "source.json")["video"]["sha256"] == {}


def test_a_file_and_a_revision_of_a_repo(hub, store, published):
    """Pinned as owner/name@revision, or by an option."""
    first = hub.repos[SMALL].branches["main"]
    hub.add(SMALL, {**published[SMALL], "config.json": b"{}"})
    with pytest.raises(SAMAudioError, match="describes no checkpoint that can be converted"):
        convert(SMALL)
    folder = convert(SMALL, revision=first)
    assert read_json(folder / "source.json")["checkpoint"]["revision"] == first
    assert SAMAudio.from_pretrained(SMALL, revision=first)
    fails("is not known to hold revision v2 of mlx-community", revision="v2")
    shutil.rmtree(folder)
    named = convert(f"{SMALL}@{first}/model.safetensors")
    assert named.name == "mlx-community--sam-audio-small-fp16--model"
    for name, options in ((SMALL, dict(revision="v2")), (f"{SMALL}@v2", {})):
        with pytest.raises(SAMAudioError, match="has no revision 'v2'"):
            convert(name, **options)
    with pytest.raises(SAMAudioError, match="names a revision already"):
        convert(f"{SMALL}@{first}", revision=first)


def test_a_download_that_breaks_off(hub, store, published):
    """The rest is asked for; where nothing more comes, nothing is left, and it begins again."""
    there, size = f"/cdn/{SMALL}/.*model.safetensors$", len(published[SMALL]["model.safetensors"])
    header = 2  # requests that are too short to be cut
    hub.faults = [Fault(there, cut=size // 2, times=header + 1), Fault(there, 500, times=None)]
    fails(f"cannot download {SMALL}.*500")
    assert left(store) == []
    hub.faults = [Fault(there, cut=size // 2, times=header + 1)]
    hub.requests.clear()
    resolve(SMALL)
    parts = [each for each in hub.requests if re.search(there, each.path) and each.sent > 100_000]
    assert sum(each.sent for each in parts) < 1.1 * size
    assert re.fullmatch(r"bytes=\d{6,}-", parts[-1].range)


def test_an_import_that_is_interrupted(hub, store, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("convert.command.write_json", stop)
        with pytest.raises(KeyboardInterrupt):
            resolve(SMALL)
    assert left(store) == []
    hub.requests.clear()
    resolve(SMALL)
    assert not hub.sent("model.safetensors", SMALL)


def test_offline(hub, store):
    hub.stop()
    fails("is not reached, and no copy is in the hub's cache")


def test_offline_with_what_was_downloaded(hub, store):
    folder = resolve(SMALL)
    shutil.rmtree(folder)
    hub.stop()
    assert resolve(SMALL) == folder


@pytest.mark.parametrize(
    "fault, message",
    [
        (Fault(".", 401, times=None), "cannot download .*401"),
        (Fault(".", 401, times=None, code="RepoNotFound"), "no folder and no public hub repo"),
        (Fault(".", 403, times=None, code="GatedRepo"), "is gated: .*a copy that you trust"),
        (Fault(".", 403, times=None), "cannot download .*403"),
        (Fault("/resolve/|/cdn/", 404, times=None), "cannot download .*404: there is no such"),
        (Fault(".", 429, times=None), "cannot download .*429"),
        (Fault(".", 500, times=None), "cannot download .*500"),
        (Fault("/cdn/", 429, times=None), "cannot download .*429"),
        (Fault("/cdn/", 500, times=None), "cannot download .*500"),
        (Fault("/cdn/", 404, times=None), "cannot download .*404"),
    ],
)
def test_what_the_hub_refuses(hub, store, fault, message):
    hub.faults = [fault]
    with pytest.raises(SAMAudioError, match=message) as said:
        resolve(SMALL)
    assert "\n" not in str(said.value) and "Request ID" not in str(said.value)
    assert left(store) == []


def test_metas_own_repos_are_gated(hub, store, monkeypatch):
    """Nobody else's copy is taken for it; with a token it is converted like any other."""
    fails("facebook/sam-audio-small is gated: ask for access.*open", "facebook/sam-audio-small")
    assert not hub.downloaded("mrfakename/sam-audio-small") and left(store) == []
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    assert resolve("facebook/sam-audio-small") == store / "small"
    assert resolve("small") == resolve("facebook/sam-audio-small")


@pytest.mark.parametrize(
    "name, message",
    [
        ("someone/bert", "describes no checkpoint that can be converted"),
        ("nobody/nothing", "no folder and no public hub repo 'nobody/nothing'"),
        ("t5-base", "there is no model folder t5-base"),
    ],
)
def test_a_repo_that_is_something_else(hub, store, name, message):
    fails(message, name)
    assert not any(hub.sent(file) for file in ("model.safetensors", "checkpoint.pt"))


def test_another_kind_of_model_is_not_downloaded(hub, store):
    with pytest.raises(SAMAudioError, match="a separation model, where a span predictor is nee"):
        SpanPredictor.from_pretrained(SMALL)
    assert not hub.sent("model.safetensors")


def test_quantised_weights_are_not_downloaded(hub, store, published):
    packed = save({"proj.scales": torch.zeros(3), "big": torch.zeros(2**16)})
    hub.add("someone/sam-audio-4bit", {**published[SMALL], "model.safetensors": packed})
    fails("quantised already and not converted again: .*proj.scales", "someone/sam-audio-4bit")
    assert hub.sent("model.safetensors", "someone/sam-audio-4bit") < 2000


def test_a_converted_model_is_taken_as_it_is(hub, store, tiny_folder, tmp_path):
    """Into the store: what its manifest names, and nothing else."""
    copy = shutil.copytree(tiny_folder, tmp_path / "copy")
    (copy / "junk.safetensors").write_bytes(bytes(10_000))
    commit = hub.add("me/tiny", copy)
    with pytest.raises(SAMAudioError, match="a separation model, where a span predictor"):
        SpanPredictor.from_pretrained("me/tiny")
    with pytest.raises(SAMAudioError, match="is converted already: leave out what changes it"):
        convert("me/tiny", dtype="float16")
    assert not hub.sent("model.safetensors") and left(store) == []
    assert SAMAudio.from_pretrained("me/tiny").name == "me--tiny"
    assert not hub.sent("junk.safetensors") and "me--tiny" in left(store)
    assert {path.name for path in (store / "me--tiny").iterdir()} == {
        ".hub.json", *(path.name for path in tiny_folder.iterdir())
    }  # fmt: skip
    hub.stop()
    for name in ("me/tiny", f"me/tiny@{commit}"):
        assert SAMAudio.from_pretrained(name)
    fails("not known to hold revision v2 of me/tiny@v2", "me/tiny@v2")


def test_a_converted_model_that_was_changed(hub, store, tiny_folder, tmp_path):
    copy = shutil.copytree(tiny_folder, tmp_path / "copy")
    with open(copy / "model.safetensors", "r+b") as file:
        file.seek(-1, io.SEEK_END)
        file.write(b"x")
    hub.add("me/tiny", copy)
    fails("model.safetensors is not what the conversion wrote: its sha256 differs", "me/tiny")
    (copy / "spiece.model").unlink()
    hub.add("me/other", copy)
    fails("me/other does not hold spiece.model as its manifest.json says", "me/other")
    assert left(store) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-4],
        lambda data: data + bytes(4),
        lambda data: data[:4],
        lambda data: (2**40).to_bytes(8, "little") + data[8:],
        lambda data: data.replace(b'"dtype":"F16"', b'"dtype":"F99"', 1),
        lambda data: data.replace(b'"dtype":"F16"', b'"dtype":"F64"', 1),
        lambda data: data.replace(b'"data_offsets":[0,', b'"data_offsets":[2,', 1),
        lambda data: (200_000).to_bytes(8, "little") + b"[" * 200_000,
        lambda data: (20).to_bytes(8, "little") + b'{"a": {"dtype": []}}',
    ],
)
def test_a_header_that_lies(hub, store, published, damage):
    """Nothing but the header is read of such a file."""
    data = damage(published[SMALL]["model.safetensors"])
    hub.add("someone/lies", {**published[SMALL], "model.safetensors": data})
    fails("model.safetensors of someone/lies is damaged or incomplete", "someone/lies")
    assert hub.sent("model.safetensors", "someone/lies") < 300_000


def test_a_pickle_is_looked_at_before_it_is_downloaded(hub, store, published):
    complete, evil = published["mrfakename/sam-audio-small"], io.BytesIO()
    torch.save({"x": io.StringIO}, evil)
    for name, data in (("evil", evil.getvalue() + bytes(10**6)), ("text", b"x" * 10**6)):
        hub.add(f"someone/{name}", {**complete, "checkpoint.pt": data})
        fails("someone/.*checkpoint.pt is (damaged|not a plain set)", f"someone/{name}")
    convert("mrfakename/sam-audio-small", codec_from="mrfakename/sam-audio-small")
    state = {"proj.bias": torch.zeros(3), "more": torch.zeros(10**6)}
    other = io.BytesIO()
    torch.save(state, other)
    hub.add("someone/else", {**complete, "checkpoint.pt": other.getvalue()})
    fails("someone/else holds no codec", "someone/else")
    assert hub.sent("checkpoint.pt", "someone/else") < 600_000


def test_what_came_is_what_the_hub_lists(hub, store, monkeypatch):
    path = "convert.sources.sha256"
    monkeypatch.setattr(path, lambda file: "0" * 64 if file.name == "model.safetensors" else "1")
    fails("model.safetensors of .* is not what the hub lists, by its sha256")
    assert left(store) == []


def test_no_room_for_a_download(hub, store, monkeypatch):
    monkeypatch.setattr("mlx_sam_audio.loading.hub.LARGE", 1000)
    usage = shutil.disk_usage("/")._replace(free=10_000)
    monkeypatch.setattr("mlx_sam_audio.loading.hub.shutil.disk_usage", lambda path: usage)
    fails(f"cannot download {SMALL}: the disk of .* has 0.0 GB free|converted model needs")
    assert not hub.sent("model.safetensors", SMALL) > 200_000


@pytest.mark.parametrize(
    "name, message",
    [
        (f"{SMALL}/model.safetensors", "convert .* first, with `python -m convert --hf-path"),
        ("a/b/c", "there is no model folder a/b/c"),
        ("mlx-community/..", "no folder and no public hub repo|no model folder"),
        ("https://huggingface.co/x/y", "there is no model folder https"),
    ],
)
def test_names_that_are_no_repos(hub, store, name, message):
    fails(message, name)


def test_a_large_configuration(hub, store, published):
    hub.add("someone/wide", {**published[SMALL], "config.json": b" " * 5 * 2**20})
    fails("someone/wide/config.json has 5242880 bytes: more than any", "someone/wide")
    assert not hub.sent("config.json", "someone/wide")


def test_files_of_odd_names(hub, store, published):
    odd = dict.fromkeys(("/abs/x.safetensors", "C:/x.safetensors", "a" * 300, "../x.pt"), b"x")
    hub.add("someone/odd", {**published[SMALL], **odd})
    assert resolve("someone/odd") == store / "someone--odd"


def test_sharing_a_model(hub, store, tiny_folder, tmp_path, monkeypatch, capsys):
    """Whole, with licence, origin, checksums and a page; only after a yes."""
    folder = shutil.copytree(tiny_folder, tmp_path / "tiny")
    arguments = ["--verify", str(folder), "--upload-repo", "me/sam-audio-tiny"]
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert main(arguments) == 2 and "log in with `hf auth login` first" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert main(arguments) == 0 and "nothing was uploaded" in capsys.readouterr().out
    assert "me/sam-audio-tiny" not in hub.repos
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert main(arguments) == 0
    files = hub.repos["me/sam-audio-tiny"].files
    assert files["LICENSE"].startswith(b"SAM License")
    assert set(files) == {path.name for path in folder.iterdir()} | {"README.md"}
    page = files["README.md"].decode()
    assert "license_name: sam-license" in page and "-m me/sam-audio-tiny" in page
    assert SAMAudio.from_pretrained("me/sam-audio-tiny").config.missing == ()
    (folder / "LICENSE").write_text("another")
    assert main(arguments) == 2 and "LICENSE is not what" in capsys.readouterr().err


@pytest.mark.parametrize("repo", ["", "me", "./me/x", "me/x/y", "me/x y", "me/-x", "me/x@main"])
def test_an_odd_name_to_share_under(repo, capsys):
    assert main(["--verify", "nowhere", "--upload-repo", repo]) == 2
    assert "name it like owner/name" in capsys.readouterr().err


def test_short_names_are_the_originals():
    assert {repo: name for name, (repo, _) in REPOS.items()} == ORIGINALS


def test_the_command_says_what_went_wrong(hub, capsys, tmp_path):
    soundfile.write(tmp_path / "mix.wav", np.zeros(4800), 48_000)
    hub.faults = [Fault(".", 500, times=None)]
    words = [str(tmp_path / "mix.wav"), "-d", "dog", "-m", SMALL, "-o", str(tmp_path / "out.wav")]
    assert separate(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: cannot download") and said.count("\n") == 1


def test_what_is_lacking_is_said_once(hub, store):
    with pytest.warns(SAMAudioWarning) as said:
        SAMAudio.from_pretrained(SMALL)
    assert sum("lacks Meta's video alignment" in str(each.message) for each in said) == 1
