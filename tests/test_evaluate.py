"""The evaluation: a run is what it says, however often it was interrupted."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from benchmarks import evaluate, models
from benchmarks.evaluation import harness
from benchmarks.evaluation.dataset import Dataset
from benchmarks.evaluation.harness import Ask
from benchmarks.evaluation.profiles import deviations, settings_of
from benchmarks.evaluation.runs import Run, Task
from benchmarks.parity import relative_error
from mlx_sam_audio import SAMAudio, SAMAudioError, SAMAudioWarning
from mlx_sam_audio.demo import sounds
from mlx_sam_audio.media import sound_files
from mlx_sam_audio.models.quantise import QuantisationConfig, quantise
from mlx_sam_audio.ranking.metrics import si_sdr

MANY = ["method=euler", "steps=1", "candidates=2"]
FAST = ["--with", "method=euler", "steps=1"]
PAIRS = {"a": ("bell", "engine"), "b": ("siren", "clock"), "c": ("bird", "bass")}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Three items of half a second, two of one recording; a fourth that could not be made."""
    folder, rng = tmp_path_factory.mktemp("data") / "three", sounds.heldout_rng(3)
    for name, families in PAIRS.items():
        target, rest = (sounds.clip(family, rng, 0.5) for family in families)
        item = folder / name
        item.mkdir(parents=True)
        for stem, wave in (("mixture", target + rest), ("target", target)):
            sound_files.write(item / f"{stem}.wav", wave, sounds.SAMPLE_RATE)
        told = {
            "description": f"a {families[0]}",
            "other": f"a {families[1]}",
            "absent": "a whistle",
            "spans": [["+", 0.0, 0.3]],
            "group": "one" if name != "c" else "two",
            "settings": {"all": "text"} | ({"some": "text+span"} if name == "b" else {}),
        }
        (item / "prompt.json").write_text(json.dumps(told))
    missing = [{"id": "d", "why": "its video is not there", "settings": {"all": "text"}}]
    (folder / "missing.json").write_text(json.dumps(missing))
    return folder


@pytest.fixture
def data(made, tmp_path) -> Path:
    """A copy that may be changed."""
    return shutil.copytree(made, tmp_path / "three")


def run(data: Path, out: Path, *arguments: str) -> int:
    return evaluate.main([str(data), "--out", str(out), *FAST, *arguments])


@pytest.fixture(scope="module")
def done(made, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert run(made, out, "--prompts", "text", "wrong", "absent", "--seeds", "2") == 0
    return out


def files(folder: Path) -> dict[str, bytes]:
    """All that must be the same in a second run."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "timing.jsonl"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_rows_and_counts(done):
    rows = Run.read(done).rows
    assert len(rows) == 4 * 3 * 2 and [Task.of(row) for row in rows] == sorted(map(Task.of, rows))
    assert {row["id"]: row["error"] for row in rows if row["status"] != "ok"} == {
        "d": "its video is not there"
    }
    text = (done / "summary.md").read_text()
    assert "3 of 4 items scored, 0 failed, 1 missing; 2 recordings" in text
    assert "not the reference's settings: candidates 1 (8)" in text
    absent = next(row for row in rows if row["prompt"] == "absent")
    assert absent["scores"]["sdr"] is None and absent["why"]["sdr"] == "the sound is absent"
    assert absent["scores"]["under"] is not None and absent["codec"] == {}


def test_scores_are_those_of_the_sounds_that_are_kept(done, made):
    row = next(row for row in Run.read(done).rows if row["prompt"] == "text")
    folder = done / "audio" / row["id"]
    target, mixture = (
        harness.sound(made / row["id"] / f"{name}.wav")[0][0] for name in ("target", "mixture")
    )
    estimate, rest = (
        harness.sound(folder / f"text.0/{name}.wav")[0][0] for name in ("target", "residual")
    )
    before = si_sdr(mixture, target)
    assert row["scores"]["si_sdr"] == pytest.approx(si_sdr(estimate, target))
    assert row["scores"]["si_sdri"] == pytest.approx(si_sdr(estimate, target) - before)
    gained = si_sdr(rest, mixture - target) - si_sdr(mixture, mixture - target)
    assert row["scores"]["residual_si_sdri"] == pytest.approx(gained)
    assert row["mixture"]["si_sdr"] == pytest.approx(before) and row["mixture"]["sdri"] == 0
    ceiling = harness.sound(folder / "codec.wav")[0][0]
    assert row["codec"]["si_sdr"] == pytest.approx(si_sdr(ceiling, target))
    assert row["codec"]["si_sdr"] > 15


def test_the_truth_scores_best(made, tmp_path, monkeypatch):
    """A separation that returns it."""
    separate = SAMAudio.separate

    def exact(self, path, description, **options):
        target, rest = Dataset.read(made).items[0].truth(self.sample_rate, 1)
        result = separate(self, path, description, **options)
        object.__setattr__(result, "target", target[0].astype(np.float32))
        object.__setattr__(result, "residual", rest[0].astype(np.float32))
        return result

    monkeypatch.setattr(SAMAudio, "separate", exact)
    run(made, tmp_path / "out", "--setting", "all", "--limit", "1")
    (row,) = Run.read(tmp_path / "out").rows
    assert min(row["scores"][name] for name in ("sdr", "si_sdr", "si_sir", "si_sar")) > 110
    assert row["scores"]["si_sdr"] > row["codec"]["si_sdr"] + 60


KILLED = """
import os, signal, sys
from benchmarks import evaluate
from benchmarks.evaluation import {module} as module
left, inner = [{after}], module.{name}
def count(*arguments, **keywords):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(*arguments, **keywords)
module.{name} = count
evaluate.main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    "module, name, after", [("harness", "sound_files.write_all", 3), ("runs", "line", 40)]
)
def test_a_killed_run_goes_on_to_the_same_bytes(done, made, tmp_path, module, name, after):
    """Killed between sounds, and between rows; what was being written is torn."""
    out, asked = tmp_path / "whole", ["--prompts", "text", "wrong", "absent", "--seeds", "2"]
    code = KILLED.format(module=module, name=name, after=after)
    arguments = [str(made), "--out", str(out), *FAST, *asked]
    killed = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True)
    assert killed.returncode < 0, killed.stderr
    if module == "runs":
        with open(out / "items.jsonl", "a") as file:
            file.write('{"id": "b", "prom')
    assert run(made, out, *asked, "--resume") == 0
    assert files(out) == files(done)


def test_a_second_run_and_a_part_of_it_are_the_same(done, made, tmp_path):
    """Noise depends on neither order nor number, and is shared by prompts."""
    assert run(made, tmp_path / "part", "--prompts", "absent", "--limit", "2") == 0
    whole = {Task.of(row): row for row in Run.read(done).rows}
    part = Run.read(tmp_path / "part").rows
    assert len(part) == 2 and all(row == whole[Task.of(row)] for row in part)
    assert whole["a", "text", 0]["facts"]["seed"] == whole["a", "absent", 0]["facts"]["seed"]
    seeds = {row["facts"]["seed"] for row in whole.values() if row["facts"]}
    assert len(seeds) == 3 * 2


def test_more_can_be_asked_of_a_run_but_nothing_else(done, made, data, tmp_path):
    out = tmp_path / "whole"
    run(made, out, "--limit", "1", "--prompts", "text")
    with pytest.raises(SAMAudioError, match="holds a run: give --resume, or another --out"):
        run(made, out)
    with pytest.raises(SAMAudioError, match=r"another steps \(1, not 2\): give"):
        run(made, out, "--resume", "--with", "method=euler", "steps=2")
    with pytest.raises(SAMAudioError, match="another base seed"):
        run(made, out, "--resume", "--seed", "1")
    (data / "a" / "prompt.json").write_text('{"description": "a bell"}')
    with pytest.raises(SAMAudioError, match="another data: a"):
        run(data, out, "--resume")
    run(made, out, "--resume", "--prompts", "text", "wrong", "absent", "--seeds", "2")
    assert files(out) == files(done)


def test_scores_are_added_without_separating(made, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run(made, out, "--metrics", "level")
    outside = tmp_path / "pesq.jsonl"
    rows = [{"id": "a", "value": 2.5}, {"id": "b", "prompt": "text", "value": None}]
    outside.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def refuse(*arguments, **options):
        raise AssertionError

    monkeypatch.setattr(SAMAudio, "from_pretrained", refuse)
    assert run(made, out, "--score-only", "--join", f"pesq={outside}") == 0
    scores = {row["id"]: row["scores"] for row in Run.read(out).rows}
    assert scores["a"]["pesq"] == 2.5 and "pesq" not in scores["b"] | scores["c"]
    assert scores["c"].keys() >= {"under", "si_sdri", "activity_iou"}
    assert "pesq" in (out / "summary.md").read_text()
    for line, sentence in (
        ('{"id": "a", "value": NaN}', "pesq.jsonl, line 1: NaN is no number"),
        ('{"id": "a", "value": true}', "line 1: value is True, expected a number"),
        ('{"id": "e", "value": 1}', "line 1: 'e' is no item of three"),
        ('{"id": "a", "value": 1}\n{"id": "a", "value": 2}', "line 2: 'a' stands there twice"),
    ):
        outside.write_text(line)
        with pytest.raises(SAMAudioError, match=sentence):
            run(made, out, "--score-only", "--join", f"pesq={outside}")
    before = {row["id"]: row["scores"] for row in Run.read(out).rows}
    shutil.rmtree(out / "audio")
    assert run(made, out, "--score-only") == 0
    assert {row["id"]: row["scores"] for row in Run.read(out).rows} == before


def test_a_failed_item_is_counted_and_tried_again(data, tmp_path, capsys):
    sound = (data / "b" / "mixture.wav").read_bytes()
    (data / "b" / "mixture.wav").write_bytes(sound[:30])
    out = tmp_path / "out"
    assert run(data, out) == 1
    assert {row["id"]: row["status"] for row in Run.read(out).rows} == {
        **dict(a="ok", b="error", c="ok", d="missing")
    }
    assert "2 of 4 items scored, 1 failed, 1 missing" in capsys.readouterr().out
    assert run(data, out, "--score-only") == 1


@pytest.mark.parametrize("stem, samples", [("target", 7999), ("target", 7000), ("mixture", 6000)])
@pytest.mark.parametrize("rest", [False, True])
def test_sounds_of_other_lengths_are_no_truth(stem, samples, rest, data, tmp_path):
    """But for a sample, which may be of rounding."""
    path = data / "a" / f"{stem}.wav"
    if rest:
        shutil.copy(data / "a" / "target.wav", data / "a" / "residual.wav")
    sound_files.write(path, harness.sound(path)[0][0, :samples], sounds.SAMPLE_RATE)
    status = run(data, tmp_path / "out", "--setting", "all", "--limit", "1", "--with", *MANY)
    (row,) = Run.read(tmp_path / "out").rows
    assert status == (samples < 7999) and row["status"] == ("error" if status else "ok")
    if status:
        assert "its sounds are not equally long" in row["error"]
    else:
        assert row["scores"]["oracle_si_sdri"] >= row["scores"]["si_sdri"] - 1e-9


def test_a_residual_that_does_not_add_up_is_told(data, tmp_path):
    shutil.copy(data / "a" / "target.wav", data / "a" / "residual.wav")
    with pytest.warns(SAMAudioWarning, match="target and residual do not add up to the mixture"):
        run(data, tmp_path / "out", "--setting", "all", "--limit", "1")


def test_subsets_keep_their_items(made, tmp_path, capsys):
    run(made, tmp_path / "out", "--setting", "all", "--prompts", "text")
    run(made, tmp_path / "out", "--setting", "some", "--prompts", "text", "text", "--resume")
    settings = {row["id"]: row["settings"] for row in Run.read(tmp_path / "out").rows}
    assert settings == dict(a=["all"], b=["all", "some"], c=["all"], d=["all"])
    assert "2 seeds" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, text, sentence",
    [
        ("a/prompt.json", '{"spans": [["+", 2, 1]]}', "a/prompt.json: span"),
        ("a/prompt.json", '{"spans": [[1, 2]]}', "prompt.json: spans.0. is"),
        ("a/prompt.json", '{"settings": ["sfx"]}', "prompt.json: settings is"),
        ("a/prompt.json", '{"settings": {"sfx": "words"}}', "settings.sfx is 'words', expected"),
        ("a/prompt.json", '{"texts": "x"}', "prompt.json has unknown keys: texts"),
        ("dataset.json", '{"metric_rate": 0}', "metric_rate is 0, expected"),
        ("dataset.json", '{"metric_rate": true}', "metric_rate is True, expected"),
        ("dataset.json", '{"aggregate": "median"}', "aggregate is 'median', expected"),
        ("missing.json", "", "cannot read .*missing.json"),
        ("missing.json", '[{"id": "../x", "why": ""}]', "'../x' is no name of a folder"),
        ("missing.json", '[{"id": "x"}]', "missing.json, .0. lacks why"),
    ],
)
def test_a_dataset_is_read_strictly(name, text, sentence, data):
    (data / name).write_text(text)
    with pytest.raises(SAMAudioError, match=sentence):
        Dataset.read(data)


def test_damaged_rows_are_scored_again_and_a_damaged_run_is_refused(made, tmp_path):
    out = tmp_path / "out"
    run(made, out)
    before = files(out)
    rows, timing = out / "items.jsonl", out / "timing.jsonl"
    first, *others = rows.read_text().splitlines()
    strange = ["5", "[]", "{}", first.replace("0.", "NaN", 1), first[:50], *others, "\xff"]
    rows.write_text("\n".join(strange), encoding="latin-1")
    timing.write_bytes(timing.read_bytes()[:-30])
    run(made, out, "--resume")
    assert files(out) == before
    (out / "audio/a/text.0/target.wav").unlink()
    run(made, out, "--resume")
    assert files(out) == before
    (out / "run.json").write_text('{"format": 1}')
    with pytest.raises(SAMAudioError, match="run.json lacks"):
        Run.read(out)


def test_the_record_of_a_table_names_the_machine(made, tmp_path):
    record = tmp_path / "rows.json"
    run(made, tmp_path / "out", "--setting", "some", "--json", str(record))
    record = json.loads(record.read_text())
    assert record["rows"]["pairs"][0]["scored"] == 1
    assert {"chip", "mlx", "numpy", "commit", "date"} <= set(record["machine"])


def test_settings_and_prompts_of_a_dataset(made):
    dataset = Dataset.read(made)
    tasks = Ask().tasks(dataset)
    assert tasks[Task("b", "text", 0)] == ("all",)
    assert tasks[Task("b", "text+span", 0)] == ("some",) and len(tasks) == 5
    assert list(Ask(settings=("some",)).tasks(dataset)) == [Task("b", "text+span", 0)]
    both = Ask(prompts=("text",)).tasks(dataset)
    assert both[Task("b", "text", 0)] == ("all", "some")
    with pytest.raises(SAMAudioError, match="three has no setting 'sfx': it has all, some"):
        Ask(settings=("sfx",)).tasks(dataset)


def test_the_reference_profile_is_the_references():
    settings = settings_of("reference", ())
    given = vars(settings("text"))
    wanted = dict(method="midpoint", steps=16, candidates=8, ranker="clap:5,judge:1", window=None)
    wanted |= dict(predict_spans=False, watermark=True, stereo="mono", residual="model")
    assert wanted.items() <= given.items() and len(settings("text").plan) == 32
    assert settings("text+visual").ranker == "imagebind"
    assert not [line for line in deviations("reference", settings) if "settings" in line]
    changed = deviations("reference", settings_of("reference", ["steps=8", "gate=true"]))
    assert changed[0] == "not the reference's settings: gate True (False), steps 8 (16)"


@pytest.mark.parametrize(
    "given, sentence",
    [
        (["--with", "step=3"], "--with takes NAME=VALUE of a setting, not 'step=3'"),
        (["--with", "steps=many"], "steps"),
        (["--with", "seed=3"], "--with takes NAME=VALUE"),
        (["--networks", "pesq=x"], "--networks takes GROUP=FOLDER of judge, clap"),
        (["--join", "sdr=x.jsonl"], "--join takes NAME=FILE with a name of its own"),
        (["--metrics", "judge"], "judge"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_made(given, sentence, made, store, tmp_path):
    with pytest.raises(SAMAudioError, match=sentence):
        evaluate.main([str(made), "--out", str(tmp_path / "out"), *given])
    assert not (tmp_path / "out").exists()


def test_networks_listen_too(made, converted, tmp_path):
    """Through the real converter, on the originals' tiny checkpoints."""
    groups = ["clap", "aesthetics"]
    places = [f"{group}={converted(group)}" for group in groups]
    arguments = ["--setting", "all", "--limit", "1", "--metrics", *groups, "--networks", *places]
    assert run(made, tmp_path / "out", *arguments) == 0
    (row,) = Run.read(tmp_path / "out").rows
    names = {"clap", "aes_enjoyment", "aes_usefulness", "aes_complexity", "aes_quality"}
    assert row["scores"].keys() == row["mixture"].keys() == row["codec"].keys() == names
    assert row["scores"]["clap"] != row["mixture"]["clap"]
    assert Run.read(tmp_path / "out").meta["scorers"].keys() == set(groups)


def test_rounded_weights_are_those_of_few_bits(made, tmp_path):
    """What the converter would write."""
    four = models.rounded(SAMAudio.from_pretrained("demo"), "4")
    quantised = SAMAudio.from_pretrained("demo")
    quantised.network.set_dtype(mx.float32)
    quantise(quantised.network, QuantisationConfig(4, 64))
    wave = sounds.heldout_rng(0).random(4000).astype(np.float32)
    targets = [np.array(m.separate(wave, "a bell", steps=1).target) for m in (four, quantised)]
    assert relative_error(*targets) < 1e-4
    run(made, tmp_path / "out", "--limit", "1", "--round", "4")
    assert Run.read(tmp_path / "out").meta["identity"]["weights rounded to"] == "4"


def test_an_estimate_is_arithmetic(made, monkeypatch, capsys):
    monkeypatch.setattr(
        evaluate.estimate, "paces", lambda: dict(encode=1e9, evaluation=1e10, decode=1e9)
    )
    evaluate.main([str(made), "--estimate", "--profile", "reference"])
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines()]
    small = float(rows[2][3])  # PFLOP
    assert [row[1].strip() for row in rows[2:]] == ["small", "base", "large"]
    # three items in the first setting and one in the second, 8 candidates of 32 evaluations of
    # half a second, of which ten have some 0.2 TFLOP
    assert small == pytest.approx(4 * 8 * 32 * 0.2e-3 * 0.05, rel=0.6)
