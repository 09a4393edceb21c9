"""What README.md and docs/ show is so: blocks of Python run, separations run, other commands parse,
links lead somewhere, every option and setting is named.

The store holds tiny models, with random weights in the originals' formats, under real names.
"""

import argparse
import ast
import importlib
import json
import re
import shlex
import shutil
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields
from importlib.metadata import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
from clips import RATE, clip
from safetensors.numpy import load_file, save_file

from convert.command import convert
from mlx_sam_audio import Settings

ROOT = Path(__file__).parent.parent
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))
}
FENCED = re.compile(r"^```(.*)\n((?s:.*?))^```$", re.MULTILINE)
pytestmark = pytest.mark.filterwarnings("ignore:.* found in sys.modules:RuntimeWarning")
SEPARATES = "mlx_sam_audio.separate", "mlx_sam_audio.judge"
SERVERS = "mlx_sam_audio.server", "mlx_sam_audio.playground"
STORE = {"tiny": "small", "pe_a_frame": "pe-a-frame-large", "judge": "judge", "clap": "clap"}
SECONDS = {"mix.wav": 2, "interview.mp3": 12, "song.mp3": 11, "song.flac": 2, "concert.wav": 6}
SECONDS |= {"field.wav": 2, "a.wav": 1, "b.wav": 2, "recordings/a.wav": 1, "recordings/b/c.flac": 1}


def commands(pattern: str) -> list[tuple[str, ...]]:
    """The program, a module or a file, and the arguments of all that a pattern finds."""
    found = []
    for text in PAGES.values():
        for line in re.findall(pattern, FENCED.sub("", text), re.MULTILINE):
            line = re.sub(r"python (-m )?", "", " ".join(line.split()))
            line = re.sub("(^|(?<=&& ))mlx-sam-audio(?= )", SEPARATES[0], line)
            line = re.sub("(^|(?<=&& ))mlx-sam-audio-play(?= |$)", "mlx_sam_audio.playground", line)
            found += [tuple(shlex.split(part)) for part in line.split(" && ")]
    return list(dict.fromkeys(found))


LINES = commands("^    (.+)$")  # which hold nothing else
RUN = [words for words in LINES if words[0] in SEPARATES]
INLINE = commands("`((?:python|mlx-sam-audio|mlx-sam-audio-play|pip) [^`]+)`")
PARSED = set(LINES + INLINE) - set(RUN)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """The current folder: all files that the pages name, and the store of models."""
    folder = tmp_path_factory.mktemp("desk")
    for golden, name in STORE.items():
        source = shutil.copytree(ROOT / "tests/golden" / golden, folder / "originals" / golden)
        for path in source.glob("config.json"):  # at 8 kHz, to be quick
            path.write_text(path.read_text().replace("48000", "8000"))
            if golden == "pe_a_frame":  # for latents as narrow as tiny's
                path.write_text(re.sub('("codebook_dim"): 16', r"\1: 8", path.read_text()))
                weights = load_file(source / "model.safetensors")
                weights["audio_model.data_proj.weight"] = np.zeros((64, 8), np.float32)
                save_file(weights, source / "model.safetensors")
        convert(str(source), folder / "store" / name)
    (folder / "store/mlx-community--sam-audio-small-fp16").symlink_to("small")
    noise = np.random.default_rng(0).normal(0, 0.1, 12 * RATE).astype(np.float32)
    (folder / "recordings/b").mkdir(parents=True)
    (folder / "jobs.csv").write_text("file,prompt,spans\nsong.mp3,vocals,\nmix.wav,a bird,\n")
    (folder / "labels.txt").write_text("0.5\t1.5\ta guitar\n")
    for name, seconds in SECONDS.items():
        soundfile.write(folder / name, noise[: seconds * RATE], RATE)
    size = dict(size=(368, 400), pix_fmt="yuv420p")
    clip(folder / "clip.mp4", sound=noise[:RATE], **size)
    clip(folder / "mask.mp4", **size)
    clip(folder / "mask.png", count=1, codec="png", **size | dict(pix_fmt="rgb24"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SAM_AUDIO_HOME", str(folder / "store"))
        yield


class Parsed(Exception):
    """Raised instead of what a program does with its arguments."""


def parser_of(program: str, arguments: Sequence[str]) -> argparse.ArgumentParser:
    """What takes the arguments of a program, which is started as Python starts it."""
    parse_args = argparse.ArgumentParser.parse_args

    def stop(parser, *given):
        parse_args(parser, *given)
        raise Parsed(parser)

    path, room = ROOT / program, None
    if not program.endswith(".py"):  # runpy cannot start what pytest imports
        spec = find_spec(program)
        spec = find_spec(f"{program}.__main__") if spec.submodule_search_locations else spec
        path, room = Path(spec.origin), spec.parent
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Parsed) as found:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(sys, "argv", [program, *arguments])
        patch.chdir(ROOT)
        names = {"__name__": "__main__", "__package__": room, "__file__": str(path)}
        exec(compile(path.read_text(), path, "exec"), names)
    return found.value.args[0]


def unreached(source: str, name: str, namespace: dict) -> set[tuple[str, int]]:
    """Runs Python, and tells the lines of statements that were not."""
    reached, before = set(), sys.gettrace()

    def trace(frame, event, argument):
        reached.add((frame.f_code.co_filename, frame.f_lineno))
        return trace if frame.f_code.co_filename == name else None

    sys.settrace(trace)
    try:
        exec(compile(source, name, "exec"), namespace)
    finally:
        sys.settrace(before)
    statements = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)]
    return {(name, node.lineno) for node in statements} - reached


@pytest.mark.parametrize("page", PAGES)
def test_blocks_of_python_run_to_the_last_line(page, desk):
    namespace = {"play": lambda samples, rate: None}
    with warnings.catch_warnings():
        for kind, source in FENCED.findall(PAGES[page]):
            assert kind == "python", "commands are indented"
            assert not unreached(source, f"<{page}>", namespace)


@pytest.mark.parametrize("words", RUN, ids=" ".join)
def test_separations_run(words, desk, capsys):
    assert importlib.import_module(words[0]).main([*words[1:]]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("words", sorted(PARSED), ids=" ".join)
def test_other_commands_parse(words, pytestconfig):
    program, *arguments = words
    if program == "pip":
        extras = re.search(r"\[(.*)\]", arguments[-1])[1].split(",")
        assert set(extras) <= set(metadata("mlx-sam-audio").get_all("Provides-Extra"))
    elif program == "pytest":
        assert not pytestconfig._parser.parse_known_and_unknown_args(arguments)[1]
    elif program == "benchmarks/gpu.sh":
        assert not arguments or f"{arguments[0]})" in (ROOT / program).read_text()
    elif program == "mlx.launch":
        started, *given = arguments[arguments.index("--") + 1 :]
        assert find_spec(started) and (started not in SEPARATES or parser_of(started, given))
    elif program == "mlx_lm.share":
        assert find_spec(program)
    elif program == "curl":
        (path,) = re.findall(r"http://127\.0\.0\.1:8765(/[^ ?]*)", " ".join(arguments))
        known = json.loads((ROOT / "mlx_sam_audio/serve/openapi.json").read_text())["paths"]
        assert any(re.fullmatch(re.sub(r"{\w+}", "[^/]+", one), path) for one in known)
    else:
        parser_of(program, arguments)


@pytest.mark.parametrize("program", [*SEPARATES, "mlx_sam_audio.doctor", "convert", *SERVERS])
def test_every_option_is_named(program):
    needed = {"mlx_sam_audio.judge": "-i i -t t -d d", "convert": "--hf-path small"}
    text = parser_of(program, needed.get(program, "").split()).format_help()
    starts = " ".join(re.findall(r"^  (-.*?)(?:  |$)", text, re.MULTILINE))
    options = re.findall(r"(?<![\w-])--?[a-z][a-z-]*", starts)
    assert "--help" in options
    page = "docs/server.md" if program in SERVERS else "docs/command.md"
    assert not set(options) - set(re.findall(r"`(--?[a-z-]+)", PAGES[page]))


def test_every_setting_is_named():
    rows = re.findall(r"^\| `(\w+)` \| ", PAGES["docs/python.md"], re.MULTILINE)
    assert not {field.name for field in fields(Settings)} - set(rows)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https:)([^)\s]+)\)", PAGES[page]):
        assert (ROOT / page).parent.joinpath(link).exists(), link


def test_the_readme_is_short_and_tells_how_to_test():
    assert len(PAGES["README.md"].splitlines()) <= 200
    assert "    pip install -e '.[test]' && python -m pytest -q\n" in PAGES["README.md"]
