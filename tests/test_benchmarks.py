"""The benchmarks' options, tables and records."""

import argparse
import importlib
from pathlib import Path

import numpy as np
import pytest

from benchmarks import report, scenes, solvers

FOLDER = Path(report.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if "report.run(main)" in path.read_text())


@pytest.mark.parametrize("name", NAMES)
def test_help_tells_every_default_and_all_take_json(name, capsys, monkeypatch):
    kept = []
    parse = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(
        argparse.ArgumentParser, "parse_args", lambda self, *a: kept.append(self) or parse(self, *a)
    )
    with pytest.raises(SystemExit):
        importlib.import_module(f"benchmarks.{name}").main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    told = [x for x in kept[0]._actions if x.default not in (None, argparse.SUPPRESS)]
    assert said.count("(default: ") >= sum(x.default is not False for x in told)
    assert all(action.help for action in kept[0]._actions) and "--json PATH" in said


def test_a_mean_tells_its_interval_where_it_has_one():
    assert report.mean([1.0, 3.0, None]) == "2.0 ± 2.0"
    assert (report.mean([1.0], unit=" dB"), report.mean([None])) == ("1.0 dB", "-")


@pytest.mark.parametrize("kind", ["pan", "delay", "reverb", "moving"])
def test_a_source_is_its_own_best_estimate_and_the_other_way_round_it_is_not(kind):
    (scene,) = scenes.scenes(1, 3, 1.0, 16000, [kind])
    exact = scenes.judged(scene.target, scene)
    assert exact["joint"] > 90 and exact["image"] == exact["wander"] == 0
    assert scenes.judged(scene.target[::-1], scene)["joint"] < exact["joint"] - 60


def test_panning_keeps_the_power_and_a_delay_only_delays():
    rng = np.random.default_rng(0)
    source = rng.standard_normal(4000)
    for place in ("left", "pan", "moving", "antiphase"):
        image = scenes.placed(source, place, rng)
        assert np.allclose(np.square(image).sum(0), np.square(source))
    assert np.allclose(scenes.delayed(source, 7)[7:], source[:-7])


def test_solvers_are_compared(monkeypatch, capsys):
    monkeypatch.setattr(solvers, "EXACT", dict(method="euler", steps=2))
    solvers.main("--mixtures 1 --evaluations 1 2 --methods euler ab2".split())
    rows = capsys.readouterr().out.splitlines()[-2:]
    assert [row.split(" | ")[0] for row in rows] == ["| 1", "| 2"] and " 0.0000 |" in rows[1]


def test_what_a_stopped_run_has_kept_is_not_measured_again(tmp_path):
    options = argparse.Namespace(rows=tmp_path / "rows.jsonl", seed=1, mixtures=2)
    assert report.each(options, [3, 4], lambda x: x * x) == [9, 16]
    assert report.each(options, [3, 4, 5], lambda x: -x) == [9, 16, -5]
    options.seed = 2
    assert report.each(options, [3], lambda x: -x) == [-3]
