"""What README.md and docs/ show is so: blocks of Python run, separations run, other commands parse,
links lead somewhere, every option and setting is named.

The store of models holds tiny ones, in Meta's formats and with random weights, under real names.
"""

import argparse
import ast
import importlib
import re
import runpy
import shlex
import shutil
import sys
import warnings
from dataclasses import fields
from importlib.metadata import metadata
from pathlib import Path

import numpy as np
import pytest
import soundfile
from clips import RATE, clip
from safetensors.numpy import load_file, save_file

from convert.command import convert
from convert.folder import write_json
from mlx_sam_audio import Settings, ode
from mlx_sam_audio.models.schema import read_json

ROOT = Path(__file__).parent.parent
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))
}
FENCED = re.compile(r"^```(.*)\n((?s:.*?))^```$", re.MULTILINE)
PROGRAMS = {"mlx-sam-audio": ["mlx_sam_audio.separate"], "pip": ["pip"], "hf": ["hf"]}
RUN = ("mlx_sam_audio.separate", "mlx_sam_audio.judge")
STORE = {"small": "tiny", "judge": "judge", "clap": "clap"}
SECONDS = {"mix.wav": 12, "interview.mp3": 12, "song.mp3": 11, "song.flac": 2, "concert.wav": 6}
SECONDS |= {"field.wav": 2, "dog.wav": 2, "a.wav": 1, "b.wav": 2}


def commands(text: str, indented: bool) -> list[str]:
    """In lines of their own, which hold nothing else; or within sentences."""
    text = FENCED.sub("", text)
    if indented:
        return re.findall(r"^    (.+)$", text, re.MULTILINE)
    quoted = (" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text))
    return [code for code in quoted if re.match(r"(python|mlx-sam-audio|pip|hf) ", code)]


def every(indented: bool) -> list[list[str]]:
    """The words of all different commands."""
    lines = [line for text in PAGES.values() for line in commands(text, indented)]
    return [shlex.split(part) for part in dict.fromkeys(" && ".join(lines).split(" && "))]


def program(words: list[str]) -> tuple[str, list[str]]:
    """The module or file that a command runs, and its arguments."""
    start, *words = [*PROGRAMS.get(words[0], words[:1]), *words[1:]]
    if start == "python":
        start, *words = words[1:] if words[0] == "-m" else words
    return start, words


SEPARATIONS = [words for words in every(indented=True) if program(words)[0] in RUN]
OTHERS = [words for words in every(True) + every(False) if words not in SEPARATIONS]


@pytest.fixture(scope="module")
def desk(goldens, converted, tmp_path_factory):
    """The current folder, with all that the pages name, and the store of models."""
    folder = tmp_path_factory.mktemp("desk")
    store, source = folder / "store", shutil.copytree(goldens / "pe_a_frame", folder / "source")
    for name, golden in STORE.items():
        shutil.copytree(converted(golden), store / name)
    channels = read_json(store / "small/config.json")["codec"]["codebook_dim"]
    config, weights = read_json(source / "config.json"), load_file(source / "model.safetensors")
    config["audio_model"]["dac_vae_encoder"]["codebook_dim"] = channels
    weights["audio_model.data_proj.weight"] = weights["audio_model.data_proj.weight"][:, :channels]
    write_json(source / "config.json", config)
    save_file(weights, source / "model.safetensors")
    convert(str(source), store / "pe-a-frame-large")

    noise = np.random.default_rng(0).normal(0, 0.1, 12 * RATE).astype(np.float32)
    for name, seconds in SECONDS.items():
        soundfile.write(folder / name, noise[: seconds * RATE], RATE)
    clip(folder / "clip.mp4", size=(368, 400), sound=noise[:RATE], pix_fmt="yuv420p")
    clip(folder / "mask.mp4", size=(368, 400), pix_fmt="yuv420p")
    clip(folder / "mask.png", count=1, size=(368, 400), codec="png", pix_fmt="rgb24")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SAM_AUDIO_HOME", str(store))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(ode, "QUALITY", dict.fromkeys(ode.QUALITY, 1))  # steps
        patch.setitem(Settings.__init__.__kwdefaults__, "steps", 1)
        yield folder


@pytest.fixture
def parsed(monkeypatch):
    """The parser of a program, and what it makes of arguments; nothing else of it is run."""
    parse_args = argparse.ArgumentParser.parse_args

    class Parsed(Exception):
        pass

    def stop(parser, *given):
        raise Parsed(parser, parse_args(parser, *given))

    def parsed(name: str, arguments: list[str]) -> tuple[argparse.ArgumentParser, object]:
        if name.endswith(".py"):
            main = runpy.run_path(str(ROOT / name))["main"]
        else:
            module = importlib.import_module(name)
            package = hasattr(module, "__path__")
            main = (importlib.import_module(f"{name}.__main__") if package else module).main
        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(Parsed) as found:
            main()
        return found.value.args

    return parsed


def unrun(source: str, name: str, namespace: dict) -> set[int]:
    """Runs Python, and tells the lines at which a statement starts that was not reached."""
    reached, before = set(), sys.gettrace()

    def trace(frame, event, argument):
        if frame.f_code.co_filename == name:
            reached.add(frame.f_lineno)
            return trace

    code = compile(source, name, "exec")
    sys.settrace(trace)
    try:
        exec(code, namespace)
    finally:
        sys.settrace(before)
    nodes = ast.walk(ast.parse(source))
    return {node.lineno for node in nodes if isinstance(node, ast.stmt)} - reached


@pytest.mark.parametrize("page", PAGES)
def test_blocks_of_python_run_to_the_last_line(page, desk):
    namespace = {"play": lambda samples, rate: None}
    with warnings.catch_warnings():
        for kind, source in FENCED.findall(PAGES[page]):
            assert kind == "python", "commands are indented"
            assert not unrun(source, f"<{page}>", namespace)


@pytest.mark.parametrize("words", SEPARATIONS, ids=" ".join)
def test_separations_run(words, desk, capsys):
    name, arguments = program(words)
    assert importlib.import_module(name).main(arguments) == 0, capsys.readouterr().err


@pytest.mark.parametrize("words", OTHERS, ids=" ".join)
def test_other_commands_parse(words, parsed, pytestconfig):
    name, arguments = program(words)
    if name == "pip":
        extras = re.search(r"\[(.*)\]", arguments[-1])[1].split(",")
        assert set(extras) <= set(metadata("mlx-sam-audio").get_all("Provides-Extra"))
    elif name == "pytest":
        assert not pytestconfig._parser.parse_known_and_unknown_args(arguments)[1]
    elif name != "hf":  # the hub's own program
        parsed(name, arguments)


@pytest.mark.parametrize(
    "arguments", [["mlx_sam_audio.separate"], ["mlx_sam_audio.judge", *"-i i -t t -d d".split()],
                  ["convert", "--hf-path", "small"]], ids=lambda arguments: arguments[0]
)  # fmt: skip
def test_every_option_is_named(arguments, parsed):
    parser, _ = parsed(arguments[0], arguments[1:])
    options = re.findall(r"(?<![\w-])--?[a-z][a-z-]*", parser.format_help().partition("options:")[2])
    assert "--help" in options
    named = set(re.findall(r"`(--?[a-z-]+)", PAGES["docs/command.md"]))
    assert not set(options) - named


def test_every_setting_is_named():
    rows = re.findall(r"^\| `(\w+)` \| ", PAGES["docs/python.md"], re.MULTILINE)
    assert not {field.name for field in fields(Settings)} - set(rows)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if not link.startswith("https://"):
            assert (ROOT / page).parent.joinpath(link).exists(), link


def test_the_readme_is_short_and_says_how_to_test():
    assert len(PAGES["README.md"].splitlines()) <= 200
    assert "    pip install -e '.[test]' && python -m pytest -q\n" in PAGES["README.md"]
