"""Settings: one place of names, defaults and checks, for people, type checkers and help()."""

import inspect
import json
import os
import pydoc
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_sam_audio import SAMAudio, SAMAudioError, Settings
from mlx_sam_audio.command.options import parser, settings_of
from mlx_sam_audio.engine.separation import Facts

ROOT = Path(__file__).parent.parent
WAVE = np.random.default_rng(0).normal(0, 0.1, 400).astype(np.float32)
FAST = dict(method="euler", steps=2)
METHODS = ("separate", "separate_long", "stream", "prepare", "separate_batch")
SCRIPT = """
import mlx.core as mx

from mlx_sam_audio import MaskedVideo, Mixture, Progress, SAMAudio, Separation, Settings, Span

model = SAMAudio.from_pretrained("demo")
mine = Settings(steps=8, method="euler", window=10, candidates="auto")
result: Separation = model.separate("mix.wav", "a dog", steps=8)
spans = [Span("+", 0, 1)]
again: Separation = model.separate("mix.wav", "a dog", settings=mine, seed=3, spans=spans)
target: mx.array = result.target
mixture: Mixture = model.encode("mix.wav")
video = MaskedVideo("a.mp4", (0, 0, 1, 1))
long: Separation = model.separate_long(mixture, "a dog", video=video, overlap=2)


def show(now: Progress) -> None:
    print(now.stage, now.done, now.total, now.fraction, now.seconds_left)


for chunk in model.stream(audio="mix.wav", description="a dog", progress=show, cancel=bool):
    rate: int = chunk.sample_rate
batch: list[Separation] = model.separate_batch(["a.wav", "b.wav"], ["a dog", "a cat"], gate=True)
run = model.prepare("mix.wav", "a dog", resume="state")
starts: list[float] = [chunk.start for chunk in run]
print(run.memory.bytes, run.facts.report()["seed"])
found: tuple[Span, ...] = model.predict_spans("mix.wav", "a dog")
"""
WRONG = """
from mlx_sam_audio import SAMAudio, Settings

model = SAMAudio.from_pretrained("demo")
model.separate("mix.wav", "a dog", stepz=8)  # no such name
model.separate_long("mix.wav", "a dog", steps="8")  # no number
model.separate_batch(["mix.wav"], ["a dog"], gate=1.5)  # neither true nor false
mine = Settings(seed="x")  # no number
mine.steps = 3  # frozen
"""


def test_a_setting_by_name_wins_over_settings(toy):
    mine = Settings(seed=3, gate=True, **FAST)
    by_name = toy.separate(WAVE, "dog", seed=5, gate=True, **FAST)
    both = toy.separate(WAVE, "dog", settings=mine, seed=5)
    assert mx.array_equal(by_name.target, both.target)
    assert both.settings == replace(mine, seed=5)
    assert type(both.settings) is Settings


@pytest.mark.parametrize("name", METHODS)
def test_names_that_are_none_are_refused(toy, name):
    for wrong in (dict(stepz=3), dict(settings=mx.zeros(1))):
        with pytest.raises((TypeError, SAMAudioError), match=next(iter(wrong))):
            getattr(toy, name)([WAVE], ["dog"], **wrong)
    with pytest.raises(TypeError, match="stepz"):
        Settings(stepz=3)


def test_settings_do_not_change():
    with pytest.raises(FrozenInstanceError):
        Settings().steps = 3


def test_what_decides_the_state_decides_the_fingerprint():
    changes = dict(method="euler", steps=3, times=[0, 1], seed=1, noise=mx.zeros(3), window=5.0)
    changes |= dict(overlap=1.0, message=mx.zeros(3), watermark=False, residual="subtract")
    prints = {Settings(**{name: value}).fingerprint() for name, value in changes.items()}
    assert len(prints | {Settings().fingerprint()}) == len(changes) + 1
    for change in (dict(max_memory=2**30), dict(gate=True), dict(candidates=2)):
        assert Settings(**change).fingerprint() == Settings().fingerprint()


@pytest.mark.parametrize("name", METHODS)
def test_help_lists_every_setting_with_type_default_and_unit(name):
    method = getattr(SAMAudio, name)
    parameters = inspect.signature(method).parameters
    text = pydoc.plain(pydoc.render_doc(method))
    for field in fields(Settings):
        assert parameters[field.name].default == field.default
        assert re.search(rf"\b{field.name}: \S*Annotated\[.*?\] = ", text), field.name
        assert len(re.findall(rf"\b{field.name}\b", inspect.getdoc(method))) > 0
    assert "overlap: Annotated[float, seconds] = 3.0" in text.replace("typing.", "")


def test_the_command_has_the_settings_defaults():
    assert settings_of(parser().parse_args([])) == Settings(window=10.0)


def test_every_setting_is_reported(toy):
    report = toy.separate(WAVE, "dog", ranker=max, noise=np.zeros((1, 50, 8)), **FAST).report()
    names = {"residual_by" if f.name == "residual" else f.name for f in fields(Settings)}
    assert names <= set(json.loads(json.dumps(report)))
    assert report["ranker"] == "max" and report["noise"].startswith("sha256 ")
    assert {field.name for field in fields(Facts)} <= set(vars(toy.separate(WAVE, "dog", **FAST)))


def test_numpys_numbers_are_reported(toy):
    number = np.float32(0.25)
    mine = dict(steps=np.uint8(2), seed=np.int64(3), overlap=number, ranker={"consensus": number})
    result = toy.separate(WAVE, "dog", absent=np.float64(0), max_memory=np.uint64(2**33), **mine)
    report = json.loads(json.dumps(result.report()))
    assert report["ranker"] == {"consensus": 0.25}
    assert (report["seed"], report["max_memory"], report["overlap"]) == (3, 2**33, 0.25)


def checked(command: list[str], folder: Path, **environment: str) -> str:
    """What a type checker says of two scripts in a folder."""
    for name, text in (("right.py", SCRIPT), ("wrong.py", WRONG)):
        (folder / name).write_text(text)
    settings = {"extraPaths": [str(ROOT)], "typeCheckingMode": "strict"}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    (folder / "mypy.ini").write_text("[mypy-torch.*]\nfollow_imports = skip\n")  # it is large
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"} | environment
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_type_checkers_know_every_argument(tmp_path, checker):
    command = {"mypy": ["mypy", "--strict", "--follow-imports=silent", "right.py", "wrong.py"]}
    told = checked(command.get(checker, [checker]), tmp_path, MYPYPATH=str(ROOT))
    wrong = [i for i, line in enumerate(WRONG.split("\n"), 1) if "  # " in line]
    found = re.findall(r"(\w+\.py):(\d+).*error", told)
    assert sorted({(name, int(line)) for name, line in found}) == [("wrong.py", n) for n in wrong]
