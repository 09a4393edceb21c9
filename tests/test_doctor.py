"""The doctor tells what is there, whatever is broken, and removes nothing but a model."""

import io
import json
import os
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest

from convert.folder import write_json
from mlx_sam_audio import doctor, separate
from mlx_sam_audio.command import doctor as command
from mlx_sam_audio.engine import memory
from mlx_sam_audio.loading import manifest
from mlx_sam_audio.loading.load import read
from mlx_sam_audio.loading.store import DEMO
from mlx_sam_audio.models.config import KINDS
from mlx_sam_audio.models.sam_audio import VISION, ModelConfig


@pytest.fixture
def well(monkeypatch):
    """The self-test takes no time."""
    monkeypatch.setattr(command, "numbers", lambda: np.array(command.RECORD))


@pytest.fixture
def told(well, capsys):
    """What is told, as JSON; nothing but the self-test has a status."""

    def told() -> dict:
        assert doctor.main(["--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return told


@pytest.fixture
def shelf(store, tiny_folder, converted):
    """A store of models: whole, without parts of the original, of other kinds, old, and broken."""
    small = shutil.copytree(tiny_folder, store / "small")
    source = {"repo": "some/body", "revision": "main", "sha256": {}, "known": None}
    write_json(small / "source.json", {"checkpoint": source, "watermark": {"repo": "some/one"}})
    lacking = shutil.copytree(tiny_folder, store / "lacking")
    (lacking / "vision.safetensors").unlink()
    config = replace(read(ModelConfig, tiny_folder), vision=None, video_constant=True)
    write_json(lacking / "config.json", replace(config, missing=(VISION,)).to_dict())
    meta = {"repo": "facebook/sam-audio-small", "known": "facebook/sam-audio-small"}
    write_json(lacking / "source.json", {"checkpoint": meta})
    for folder in (small, lacking):
        manifest.write(folder)
    shutil.copytree(DEMO, store / "format-3")
    shutil.copytree(converted("pe_a_frame"), store / "finder")
    shutil.copytree(tiny_folder, store / "cut")
    (store / "cut" / "model.safetensors").write_bytes(b"short")
    for name, text in (("old", '{"model_type": "pe_a_frame", "format": 0}'), ("odd", "[1]")):
        shutil.copytree(DEMO, store / name)
        (store / name / "config.json").write_text(text)
    (store / "empty").mkdir()
    (store / "presets").mkdir()
    return store


def test_models_of_a_store(shelf, told):
    models = {row.pop("name"): row for row in told()["models"]}
    kinds = {name: row.get("kind") for name, row in models.items()}
    usable = dict.fromkeys(("demo", "small", "lacking", "format-3"), "sam_audio")
    usable["finder"] = "pe_a_frame"
    assert kinds == usable | dict.fromkeys(("cut", "old", "odd", "empty"))
    assert models["lacking"]["missing"] == ["vision encoder"] and models["lacking"]["fits"]
    assert models["small"]["missing"] == [] and models["small"]["dtype"] == "float32"
    files = [path for path in (shelf / "small").iterdir() if path.name != manifest.NAME]
    assert models["small"]["bytes"] == sum(path.stat().st_size for path in files)
    assert models["small"]["origin"]["checkpoint"]["repo"] == "some/body"
    assert models["demo"]["origin"] == {"bundled": True}
    assert "it has 5 bytes instead of" in models["cut"]["error"]
    assert "has format 0" in models["old"]["error"] and "JSON" in models["odd"]["error"]
    assert "holds no config.json" in models["empty"]["error"]


def test_what_fits(shelf, told, monkeypatch):
    monkeypatch.setattr(memory, "machine", lambda: 2**20)
    values = told()
    assert values["memory"]["usable_bytes"] == 2**20
    fits = {row["name"]: row["fits"] for row in values["models"] if "fits" in row}
    assert fits == dict.fromkeys(("demo", "small", "lacking", "format-3"), False)


def test_the_screen(shelf, well, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_ENDPOINT", "https://me:secret@mirror.org/hub")
    (shelf / "small" / "notes.txt").touch()
    for arguments in ([], ["--json"]):
        assert separate.main(["--doctor", *arguments]) == 0
        screen = capsys.readouterr().out
        assert "secret" not in screen and "https://...@mirror.org/hub" in screen
        assert all(title in screen for title in (*command.PARTS, *command.PLACES))
        if arguments:
            continue
        assert max(map(len, screen.splitlines())) <= 100
        words = " ".join(screen.split())
        for name in ("demo", "small", "lacking", "finder", "cut", "old", "odd", "empty"):
            assert f" {name} " in words
        assert f"finder {KINDS['pe_a_frame']}" in words and "HF_TOKEN=set" in words
        assert "some/body (unknown to us), watermark of some/one, fits the memory" in words
        assert "holds notes.txt, which is no part of it" in words
        assert "sam-audio-small (Meta's), fits the memory, lacks vision encoder" in words


def test_bits(tmp_path, tiny_folder, converted):
    folder = shutil.copytree(tiny_folder, tmp_path / "packed")
    values = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**values, "quantisation": {"bits": 4, "group_size": 64}})
    manifest.write(folder)
    values, words = command.one_model(folder)
    assert values["quantisation"]["bits"] == 4 and ", 4 bits, groups of 64, " in words


@pytest.mark.parametrize(
    "value, shown",
    [
        ("https://me:se/cr@et@proxy:80", "https://...@proxy:80"),
        ("me:secret@proxy", "...@proxy"),
        ("https://proxy:80/x", "https://proxy:80/x"),
        ("/home/me@work", "/home/me@work"),
    ],
)
def test_no_secrets(monkeypatch, value, shown):
    monkeypatch.setenv("HTTPS_PROXY", value)
    assert command.variables()[0]["HTTPS_PROXY"] == shown


@pytest.mark.parametrize("text", [None, "{", "{}", '{"checkpoint": 3}', '{"checkpoint": {}}'])
def test_no_origin(store, tiny_folder, told, text):
    folder = shutil.copytree(tiny_folder, store / "small")
    (folder / "source.json").unlink()
    if text:
        (folder / "source.json").write_text(text)
    manifest.write(folder)
    assert "error" in told()["models"][1]["origin"]
    assert "of unknown origin, fits" in command.one_model(folder)[1]


def test_extras(told, monkeypatch):
    version = command.version
    hidden = ("matplotlib", "soxr")
    monkeypatch.setattr(command, "version", lambda name: name not in hidden and version(name))
    values = told()
    assert values["extras"]["plot"] == ["matplotlib"] and values["extras"]["rank"] == []
    assert values["versions"]["soxr"] == "of unknown version"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not command.versions()[0]["soxr"] and "soxr is missing, " in command.versions()[1]


def test_where_nothing_is(told, monkeypatch, tmp_path):
    def home():
        raise RuntimeError("no home")

    monkeypatch.delenv("SAM_AUDIO_HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.home", home)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no/where"))
    monkeypatch.setattr(command.platform, "freedesktop_os_release", lambda: {})
    values = told()
    assert [row["name"] for row in values["models"]] == ["demo"]
    assert "set HOME" in values["folders"]["store"]["error"]
    assert "bytes" not in values["folders"]["hub's cache"]
    assert values["folders"]["hub's cache"]["free_bytes"]


def test_the_hubs_cache(store, told, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--some--body"
    for folder in ("blobs", "snapshots"):
        (repo / folder).mkdir(parents=True)
    (repo / "blobs" / "a").write_bytes(bytes(1000))
    (repo / "snapshots" / "config.json").symlink_to(repo / "blobs" / "a")
    assert told()["folders"]["hub's cache"]["bytes"] == 1000


def test_what_cannot_be_imported(store, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", None)
    assert doctor.main([]) == 1
    screen = capsys.readouterr().out
    assert "versions   mlx-sam-audio" in screen and "backend    ModuleNotFoundError" in screen
    assert "hub's cache  ModuleNotFoundError" in screen and "self-test  ModuleNotFound" in screen


def test_an_odd_failure_is_a_line(told, monkeypatch):
    def fail():
        raise RuntimeError("first\nsecond")

    monkeypatch.setitem(command.PARTS, "backend", fail)
    assert told()["backend"] == {"error": "RuntimeError: first"}


def test_kernels_that_are_not_safe(told, monkeypatch):
    def guard():
        command.warnings.warn("not this user's", stacklevel=1)

    monkeypatch.setattr("mlx_sam_audio.loading.kernels.guard_kernels", guard)
    assert not told()["kernels"]["compiled"]


def test_the_self_test_holds(side):
    values, words = command.self_test()
    assert values["passed"] and values["error"] < 1e-4, words


@pytest.mark.parametrize("bits, factor, passes", [(24, 1.002, 0), (11, 1.002, 1), (11, 1.02, 0)])
def test_other_numbers(store, capsys, monkeypatch, bits, factor, passes):
    """Products of 11 bits are allowed more."""
    monkeypatch.setattr(command, "numbers", lambda: factor * np.array(command.RECORD))
    monkeypatch.setattr(command, "product_bits", lambda: bits)
    assert doctor.main([]) == 1 - passes
    assert ("FAILED" in capsys.readouterr().out) == (not passes)


def test_a_wrong_kernel_is_found(monkeypatch):
    import mlx.core as mx

    sin = mx.sin
    monkeypatch.setattr(mx, "sin", lambda x: 0.99 * sin(x))
    assert not command.self_test()[0]["passed"]


@pytest.mark.parametrize(
    "main, arguments, message",
    [
        (separate.main, ["--doctor", "mix.wav"], "takes no option but --json"),
        (separate.main, ["--doctor", "--demo"], "takes no other options"),
        (separate.main, ["--doctor", "-m", "demo"], "takes no option but --json"),
        (separate.main, ["mix.wav", "-d", "a dog", "--json"], "--json belongs to --doctor"),
        (doctor.main, ["--yes"], "give --remove MODEL, too"),
        (doctor.main, ["--remove", "small", "--json"], "leave out --json"),
    ],
)
def test_what_does_not_go_together(capsys, main, arguments, message):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def small(store, tiny_folder):
    return shutil.copytree(tiny_folder, store / "small")


@pytest.fixture
def answer(monkeypatch):
    """Somebody is asked on a terminal, and answers."""

    def answer(text):
        terminal = io.StringIO(text)
        terminal.isatty = lambda: True
        monkeypatch.setattr(sys, "stdin", terminal)

    return answer


@pytest.mark.parametrize("text, gone", [("y\n", 1), ("Yes\n", 1), ("n\n", 0), ("\n", 0), ("", 0)])
def test_a_question(small, store, answer, capsys, text, gone):
    answer(text)
    assert doctor.main(["--remove", "small"]) == 0
    assert capsys.readouterr().err.startswith("remove small (2 MiB) from ")
    assert small.exists() != gone
    assert os.listdir(store) == ([] if gone else ["small"])


def test_without_a_terminal(small, tiny_folder, store, monkeypatch, capsys):
    """What a killed conversion left does not come back."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert doctor.main(["--remove", "small"]) == 2
    assert "no terminal to ask on, so add --yes" in capsys.readouterr().err and small.exists()
    shutil.copytree(tiny_folder, store / ".small.replaced")
    assert doctor.main(["--remove", "small", "--yes"]) == 0
    assert capsys.readouterr().out.startswith("removed small (") and not os.listdir(store)


@pytest.mark.parametrize("name", ["smal", "../small", "/", "", ".", "small/", "no\0name", "demo"])
def test_no_model_of_the_store(small, capsys, name):
    assert doctor.main(["--remove", name, "--yes"]) == 2
    words = "part of the package" if name == "demo" else "there is no model"
    assert words in capsys.readouterr().err and small.exists() and DEMO.exists()


def refused(name: str, message: str, capsys) -> None:
    assert doctor.main(["--remove", name, "--yes"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["notes.txt", "wavs/"])
def test_what_is_not_the_models_stays(small, capsys, name):
    (small / name).mkdir() if name.endswith("/") else (small / name).touch()
    refused("small", f"small is not removed: it holds {name.strip('/')}, which is no", capsys)
    assert small.exists()


def test_a_folder_of_somebody(store, capsys):
    (store / "wavs").mkdir(parents=True)
    (store / "wavs" / "config.json").write_text("{}")
    refused("wavs", "it holds no manifest.json, so it may be no model", capsys)


def test_what_lies_elsewhere(small, store, tmp_path, monkeypatch, capsys):
    small.rename(tmp_path / "elsewhere")
    small.symlink_to(tmp_path / "elsewhere")
    refused("small", "elsewhere, which is not the store's own", capsys)
    monkeypatch.setenv("SAM_AUDIO_HOME", str(DEMO.parent))
    refused("model", "is not removed", capsys)
    assert (tmp_path / "elsewhere" / "config.json").exists() and DEMO.exists()


def test_a_model_that_may_not_be_removed(small, capsys, monkeypatch):
    def refuse(*names):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(command.os, "replace", refuse)
    refused("small", "small: Permission denied", capsys)
    assert small.exists()
