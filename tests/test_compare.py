"""Means with intervals, tables of a run, runs against each other, and the page to hear them by."""

import itertools
import json
import math
import random

import numpy as np
import pytest
import soundfile

from benchmarks import compare
from benchmarks.evaluation import listen, plots, statistics
from benchmarks.evaluation.runs import FORMAT, Run, Task
from benchmarks.evaluation.statistics import merged, paired, summarise
from benchmarks.evaluation.summary import markdown, summary
from mlx_sam_audio import SAMAudioError

RATE = 8000


def row(id: str, si_sdri: float | None = 1.0, **changed) -> dict:
    given = {
        **dict(id=id, prompt="text", seed=0, status="ok", error=None, group=id, settings=["all"]),
        **{"class": None, "duration": 1.0, "mixture": {}, "codec": {}, "why": {}, "facts": {}},
        "scores": {"si_sdri": si_sdri},
    }
    return {**given, **changed}


def made(folder, rows: list[dict], **identity) -> Run:
    """A run of such rows."""
    meta = {
        "format": FORMAT,
        "identity": {"model": "demo", "base seed": 0, **identity},
        "dataset": {"name": "three | sounds", "aggregate": "mean"},
        "deviations": ["not the reference's settings: steps 8 (16)"],
        "data": {each["id"]: "sum" for each in rows},
        "helpers": {},
        "scorers": {},
    }
    folder.mkdir()
    Run(folder, meta).write_meta()
    Run(folder, meta).complete(rows)
    return Run.read(folder)


def sound(run: Run, place: Task | str, **waves: np.ndarray) -> None:
    folder = run.sounds(place)
    folder.mkdir(parents=True, exist_ok=True)
    for name, wave in waves.items():
        soundfile.write(folder / f"{name}.wav", wave, RATE, subtype="FLOAT")


def tone(hertz: float, seconds: float = 1.0) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE)


def width(found: dict) -> float:
    return found["high"] - found["low"]


def test_the_interval_is_that_of_theory_and_recordings_count_not_items():
    values = np.random.default_rng(1).standard_normal(400)
    names = [str(i) for i in range(400)]
    half = 1.96 * values.std() / math.sqrt(400)
    assert width(summarise(values, names)) / 2 == pytest.approx(half, rel=0.05)
    alike = np.repeat(values[:100], 4)  # of four items of a recording, three tell nothing
    found = summarise(alike, np.repeat(names[:100], 4))
    half = 1.96 * values[:100].std() / math.sqrt(100)
    assert width(found) / 2 == pytest.approx(half, rel=0.05)
    assert width(found) > 1.8 * width(summarise(alike, names))
    assert (found["n"], found["groups"]) == (400, 100)


def test_the_interval_covers_the_truth_about_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr(statistics, "DRAWS", 500)
    rng, names = np.random.default_rng(2), [str(i) for i in range(40)]
    found = [summarise(rng.exponential(size=40), names) for _ in range(300)]
    assert 0.87 < np.mean([each["low"] < 1 < each["high"] for each in found]) < 0.97


def test_the_order_of_items_does_not_matter_to_the_last_bit():
    rng = np.random.default_rng(3)
    rows = [
        (rng.normal(), rng.normal(), f"g{rng.integers(9)}", f"c{rng.integers(4)}")
        for _ in range(50)
    ]
    for aggregate in statistics.AGGREGATES:
        found = set()
        for _ in range(3):
            random.Random(len(found)).shuffle(rows)
            a, b, groups, classes = zip(*rows, strict=True)
            both = (
                summarise(a, groups, classes, aggregate),
                paired(a, b, groups, classes, aggregate),
            )
            found.add(json.dumps(both))
        assert len(found) == 1


def test_classes_count_the_same_however_many_items_they_have():
    values, classes = [1.0, 2.0, 9.0, 4.0, None], ["a", "a", "a", "b", "b"]
    names = list("vwxyz")
    means = [summarise(values, names, classes, each)["mean"] for each in statistics.AGGREGATES]
    assert means == [4.0, (4.0 + 4.0) / 2, (2.0 + 4.0) / 2]
    values[3] = 8.0
    means = [summarise(values, names, classes, each)["mean"] for each in statistics.AGGREGATES]
    assert means == [5.0, (4.0 + 8.0) / 2, (2.0 + 8.0) / 2]


def test_medians_of_drawn_groups_are_those_of_numpy():
    rng = np.random.default_rng(4)
    values, weights = np.sort(rng.normal(size=7)), rng.integers(0, 3, (50, 7))
    weights[0] = 0
    found = statistics.medians(values, weights)
    assert np.isnan(found[0])
    expected = [np.median(np.repeat(values, each)) for each in weights[1:]]
    assert np.array_equal(found[1:], expected)


def test_of_one_recording_there_is_no_interval_and_of_nothing_no_mean():
    assert summarise([1.0, 3.0], ["a", "a"])["low"] is None
    assert summarise([None, math.nan], ["a", "b"])["mean"] is None
    assert paired([1.0], [None], ["a"])["p"] is None
    assert paired([1.0, 2.0], [2.0, 4.0], ["a", "a"])["p"] == 1  # one sign, two ways


def test_the_permutation_test_is_exact_where_groups_are_few():
    a, b = np.zeros(8), np.array([1.0, 0.5, -2.0, 3.0, 2.5, 0.25, 1.5, 0.0])
    groups = ["a", "a", "b", "c", "c", "d", "e", "f"]
    sums = np.array([1.5, -2.0, 5.5, 0.25, 1.5, 0.0])
    swapped = [abs(np.dot(signs, sums)) for signs in itertools.product((1, -1), repeat=6)]
    found = paired(a, b, groups)
    assert found["p"] == np.mean(np.array(swapped) >= abs(sums.sum()))
    assert [found[key] for key in ("wins", "ties", "losses")] == [6, 1, 1]
    assert found["difference"] == sums.sum() / 8
    lower = paired(a, b, groups, better=-1)
    assert [lower[key] for key in ("wins", "ties", "losses")] == [1, 1, 6]


def test_many_groups_are_drawn_and_equal_runs_differ_by_nothing():
    rng, names = np.random.default_rng(5), [str(i) for i in range(60)]
    a = rng.normal(size=60)
    same = paired(a, a, names)
    assert (same["difference"], same["low"], same["high"], same["p"]) == (0, 0, 0, 1)
    assert paired(a, a + 1, names)["p"] == 1 / (statistics.DRAWS + 1)
    noise = rng.normal(size=60)
    z = abs(noise.mean()) / np.sqrt(np.mean(noise**2) / 60)
    normal = math.erfc(z / math.sqrt(2))
    assert paired(a, a + noise, names)["p"] == pytest.approx(normal, abs=0.03)


def test_seeds_are_averaged_first_and_do_not_count_as_items():
    rows = [row("a", 1.0), row("a", 3.0, seed=1), row("b", None, why={"si_sdri": "it is silent"})]
    rows += [row("b", 5.0, seed=1), row("c", None, why={"si_sdri": "it is silent"})]
    items = merged(rows[::-1])
    assert [item["id"] for item in items] == ["a", "b", "c"]
    assert statistics.column(items, "si_sdri") == [2.0, 5.0, None]
    assert items[1]["fewer"] == {"si_sdri": 1} and "si_sdri" not in items[1]["why"]
    assert items[2]["why"] == {"si_sdri": "it is silent"}
    assert statistics.seed_deviation(items, "si_sdri") == pytest.approx(math.sqrt(2))


def test_a_summary_counts_what_failed_is_missing_or_has_no_score(tmp_path):
    rows = [row("a", 4.0, mixture={"si_sdri": 0.0}), row("b", -2.0), row("c", None)]
    rows[2]["why"] = {"si_sdri": "the target is silent"}
    rows += [row("d", status="error", error="no <codec> | reads it", scores={})]
    rows += [row("e", status="missing", error="there is no video", scores={})]
    rows += [row("a", 2.0, prompt="wrong", settings=["all", "more"])]
    found = summary(made(tmp_path / "run", rows))
    (pair, wrong, more) = found["pairs"]
    assert [pair[key] for key in ("asked", "scored", "recordings", "seeds")] == [5, 3, 3, 1]
    assert set(pair["failed"]) == {"d"} and pair["missing"] == {"e": "there is no video"}
    metric = pair["metrics"]["si_sdri"]
    assert (metric["n"], metric["mean"], metric["improved"]) == (2, 1.0, 0.5)
    assert metric["undefined"] == {"the target is silent": 1} and metric["mixture"]["n"] == 1
    assert [wrong["prompt"], more["setting"]] == ["wrong", "more"]
    text = markdown(json.loads(json.dumps(found, allow_nan=False)))
    assert "3 of 5 items scored, 1 failed, 1 missing" in text
    assert "not the reference's settings" in text.split("|")[1] + text.split("|")[2]
    lines = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") - 1 for line in lines} == {5, 8}  # of overview and scores
    assert "\\<codec>" in text


def test_of_a_failed_seed_the_others_are_kept_and_it_is_told(tmp_path):
    rows = [row("a", 4.0), row("a", seed=1, status="error", error="too loud", scores={})]
    (pair,) = summary(made(tmp_path / "run", rows))["pairs"]
    assert (pair["scored"], pair["failed"], pair["partly_failed"]) == (1, {}, {"a": "too loud"})


def test_a_run_of_which_all_failed_has_a_summary_and_a_page(tmp_path):
    run = made(tmp_path / "run", [row("a", status="error", error="no sound", scores={})])
    assert "0 of 1 item scored, 1 failed" in markdown(summary(run))
    assert "no sound" in listen.page(run)


def test_runs_of_other_items_are_compared_by_what_both_have(tmp_path, capsys):
    names = [f"item{i:02d}" for i in range(15)]
    first = made(tmp_path / "a", [row(name, float(i)) for i, name in enumerate(names)])
    gains = [1.0, 0.0, *[-0.1 * i for i in range(12)]]
    second = made(
        tmp_path / "b",
        [row(name, i + gain) for i, (name, gain) in enumerate(zip(names, gains, strict=False))]
        + [row("other", 3.0), row(names[14], status="error", error="no", scores={})],
        **{"base seed": 1, "steps": 4},
    )
    second.meta["data"][names[0]] = "another"
    second.write_meta()
    record = tmp_path / "found.json"
    compare.main([*map(str, (first.folder, second.folder)), "--margin", "9", "--json", str(record)])
    said = capsys.readouterr().out
    (found,) = json.loads(record.read_text())["rows"]["prompts"]
    assert found["items"] == 14
    assert found["left out"] == {"a": ["item14"], "b": ["other"]}
    base, other = found["metrics"]["si_sdri"]
    assert "against" not in base and other["within"]
    against = other["against"]
    assert [against[key] for key in ("wins", "ties", "losses")] == [1, 2, 11]
    assert against["difference"] == pytest.approx(np.mean(gains))
    lost = found["losses"]["b"]
    assert [each["id"] for each in lost] == names[13:3:-1]
    assert lost[0]["own"] - lost[0]["base"] == pytest.approx(-1.1)
    for words in (
        "| steps | None | 4 |",
        "base seeds 1 and 0",
        "1 item of b are not",
        "| item13 |",
    ):
        assert words in said
    assert "item14" in said and found["agreement"] == {"b": None}


def test_how_near_the_sounds_of_two_runs_are(tmp_path):
    ids, wave, noise = ["a", "b", "c"], tone(440), tone(1000) / 100
    runs = [made(tmp_path / name, [row(id) for id in ids]) for name in ("one", "two", "three")]
    for id, factor in zip(ids, (1, 2, 0), strict=True):
        for run, other in zip(runs, (0, factor, 0), strict=True):
            sound(run, Task(id, "text", 0), target=wave + other * noise)
    items = merged(runs[0].rows)
    near = compare.agreement(runs[0], runs[1], items)
    assert (near["n"], near["equal"]) == (3, 1) and near["median"] == pytest.approx(40, abs=0.1)
    assert compare.agreement(runs[0], runs[2], items)["equal"] == 3
    assert "| equal |" in compare.show_agreement({"three": {"n": 3, "median": 120.0, "equal": 3}})


def test_three_runs_and_metrics_from_outside(tmp_path, capsys):
    for name, value in (("a", 1.0), ("b", 2.0), ("c", 0.5)):
        rows = [row(id, scores={"pesq": value, "si_sdri": value}) for id in "xy"]
        made(tmp_path / name, rows, model=name)
    folders = [str(tmp_path / name) for name in "abc"]
    compare.main([*folders, "--metric", "pesq"])
    said = capsys.readouterr().out
    assert "**pesq**" in said and "SI-SDR" not in said
    assert (
        "| b | 2 | 2 | 2.000 [2.000, 2.000] | +1.000 [+1.000, +1.000] | 0.5000 | 2 / 0 / 0 |"
        in said
    )
    for wrong, sentence in (
        ([*folders, "--metric", "stoi"], "no run has the metric 'stoi'"),
        (folders[:1], "takes two runs or more"),
        ([*folders, folders[0]], "a is given twice"),
        ([*folders, "--prompt", "span"], "no run has such prompts"),
        ([*folders, "--setting", "speech"], "have scored no item in common"),
    ):
        with pytest.raises(SAMAudioError, match=sentence):
            compare.main(wrong)


def test_seeds_that_only_one_run_has_do_not_count(tmp_path, capsys):
    """Their luck is another."""
    a = made(tmp_path / "a", [row("x", 1.0), row("y", 2.0)])
    both = [row("x", 1.0), row("x", 9.0, seed=1), row("y", 2.0)]
    made(tmp_path / "b", both)
    compare.main([str(a.folder), str(tmp_path / "b")])
    assert "1.0000 | 0 / 2 / 0 |" in capsys.readouterr().out


def test_pictures_of_a_run_and_of_two(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [
        row(f"i{k}", k - 1.0, mixture={"si_sdri": 0.0}, **{"class": "ab"[k % 2]}) for k in range(5)
    ]
    run = made(tmp_path / "a", [*rows, row("none", None)])
    assert (
        len(plots.draw(run, tmp_path / "plots")) == len(list((tmp_path / "plots").iterdir())) == 2
    )
    made(tmp_path / "b", rows[:3])
    compare.main([str(tmp_path / "a"), str(tmp_path / "b"), "--picture", str(tmp_path / "c.png")])
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"


def test_a_page_keeps_what_it_is_told_as_text(tmp_path):
    evil, id = "</script><script>alert(1)</script>{{data}}", "50 % #1 ü?"
    rows = [row(id, None, why={"si_sdri": evil}, description=evil, **{"class": evil})]
    run = made(tmp_path / "<b>run", [*rows, row("z", status="error", error=evil, scores={})])
    sound(run, id, mixture=tone(440))
    page = listen.page(run)
    assert page.count("</script>") == 2 and "<b>run" not in page and "alert(1)</script>" not in page
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert data["rows"][0]["description"] == data["rows"][1]["error"] == evil
    (stem,) = data["rows"][0]["stems"]
    assert stem["src"] == "audio/50%20%25%20%231%20%C3%BC%3F/mixture.wav"
    assert stem["level"] == pytest.approx(20 * math.log10(0.3 / math.sqrt(2)), abs=0.1)


def test_a_long_run_is_heard_at_its_ends_and_says_so(tmp_path):
    rows = [
        row(f"i{k:03d}", float(k), prompt=kind) for k in range(150) for kind in ("text", "span")
    ]
    page = listen.page(made(tmp_path / "run", rows))
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert data["left_out"] == 100 and len(data["rows"]) == 200
    values = {each["scores"]["si_sdri"] for each in data["rows"]}
    assert values == {*range(50), *range(100, 150)}
