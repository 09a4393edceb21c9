"""The benchmarks' options, tables and records."""

import argparse
import importlib
import json
import warnings
from pathlib import Path

import pytest

from benchmarks import quality, report

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
    said = capsys.readouterr().out
    told = [x for x in kept[0]._actions if x.default not in (None, argparse.SUPPRESS)]
    assert said.count("(default: ") >= sum(x.default is not False for x in told)
    assert all(action.help for action in kept[0]._actions) and "--json PATH" in said


def test_of_one_mixture_there_is_no_nan_and_the_record_names_the_machine(tmp_path, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        quality.main(["--mixtures", "1", "--seconds", "1", "--steps", "1", "--seed", "2",
                      "--json", str(tmp_path / "rows.json")])  # fmt: skip
    assert "nan" not in capsys.readouterr().out
    record = json.loads((tmp_path / "rows.json").read_text())
    assert record["rows"]["text"]["count"] == record["options"]["mixtures"] == 1
    assert {"chip", "mlx", "numpy", "commit", "date"} <= set(record["machine"])


def test_a_mean_tells_its_interval_where_it_has_one():
    assert report.mean([1.0, 3.0, None]) == "2.0 ± 2.0"
    assert (report.mean([1.0], unit=" dB"), report.mean([None])) == ("1.0 dB", "-")
