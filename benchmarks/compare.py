"""Runs of the same items against the first of them: is it better, or as good?

python -m benchmarks.compare RUN_A RUN_B                        headline metrics, item by item
python -m benchmarks.compare RUN_A RUN_B --metric si_sdri --margin 0.05    is B as good as A?
"""

from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import soundfile

from benchmarks import report
from benchmarks.evaluation import plots, statistics
from benchmarks.evaluation.runs import Run, Task
from benchmarks.evaluation.summary import (
    HEADLINES,
    about,
    cell,
    forms,
    interval,
    names,
    plural,
    rounded,
    table,
    title,
)
from mlx_sam_audio import SAMAudioError
from mlx_sam_audio.files import writable
from mlx_sam_audio.ranking.metrics import si_sdr

LOSSES = 10  # items that are named
NAMED = 5  # of what only some runs have
LONGEST = 40  # characters of a value in a table

Items = dict[str, list[dict]]  # by the run's label, rows of the same items in the same order


def positive(text: str) -> float:
    if not 0 < (number := float(text)) < np.inf:
        raise ValueError
    return number


def labels(runs: Sequence[Run]) -> list[str]:
    """Names of the runs that tell them apart. Raises SAMAudioError for one that is given twice."""
    places = [run.folder.resolve() for run in runs]
    if twice := [place for place in places if places.count(place) > 1]:
        raise SAMAudioError(f"{twice[0]} is given twice: compare takes different runs")
    own = [run.name for run in runs]
    return own if len(set(own)) == len(own) else [str(place) for place in places]


def others(runs: dict[str, Run]) -> list[dict]:
    """What differs between the identities: {"name", label: value, ...}."""
    told = {label: run.meta["identity"] for label, run in runs.items()}
    found = []
    for name in dict.fromkeys(chain.from_iterable(told.values())):
        row = {label: identity.get(name) for label, identity in told.items()}
        if any(value != next(iter(row.values())) for value in row.values()):
            found.append({"name": name, **row})
    return found


def warnings(runs: dict[str, Run]) -> list[str]:
    """Why differences may be of something else than the separation."""
    (_, base), *rest = runs.items()
    found = []
    for label, run in rest:
        seeds = [one.meta["identity"].get("base seed") for one in (base, run)]
        if seeds[0] != seeds[1]:
            found.append(
                f"The noise of {label} is not that of the base (base seeds {seeds[1]} and "
                f"{seeds[0]}): its luck is part of every difference"
            )
        data = [one.meta.get("data") or {} for one in (base, run)]
        changed = sorted(id for id in data[0].keys() & data[1] if data[0][id] != data[1][id])
        if changed:
            found.append(
                f"The data of {plural(len(changed), 'item')} of {label} are not those of the base "
                f"({some(changed)}): evaluate again with the same dataset"
            )
        if run.aggregate != base.aggregate:
            found.append(f"{label} asks for another aggregate: that of the base is taken")
    return found


def some(ids: Sequence[str]) -> str:
    more = len(ids) - NAMED
    return ", ".join(ids[:NAMED]) + (f" and {more} more" if more > 0 else "")


def joined(runs: dict[str, Run], prompt: str, settings: Sequence[str] | None) -> tuple[Items, dict]:
    """The items that all runs have scored with a prompt, of the seeds that all have; and the ids of
    those that each of them has scored alone or with some of the others."""
    rows = {
        label: {
            Task.of(row): row
            for row in run.rows
            if row["prompt"] == prompt
            and row["status"] == "ok"
            and (not settings or {*row["settings"]} & {*settings})
        }
        for label, run in runs.items()
    }
    shared = set.intersection(*(set(own) for own in rows.values()))
    ids = {task.id for task in shared}
    items = {
        label: statistics.merged([row for task, row in own.items() if task in shared])
        for label, own in rows.items()
    }
    return items, {label: sorted({t.id for t in own} - ids) for label, own in rows.items()}


def compared(items: Items, name: str, aggregate: str, margin: float | None) -> list[dict]:
    """A metric of each run, and against the first; over the items of which all runs know it."""
    columns = [statistics.column(own, name) for own in items.values()]
    known = [i for i, row in enumerate(zip(*columns, strict=True)) if None not in row]
    base, rows = next(iter(items.values())), []
    groups = [base[i]["group"] for i in known]
    classes = [base[i].get("class") for i in known]
    first, *_ = columns = [[column[i] for i in known] for column in columns]
    for label, values in zip(items, columns, strict=True):
        row = {"run": label, **statistics.summarise(values, groups, classes, aggregate)}
        if rows:
            better = about(name).better
            row |= {"against": statistics.paired(first, values, groups, classes, aggregate, better)}
            low, high = row["against"]["low"], row["against"]["high"]
            if margin is not None and low is not None:
                row["within"] = -margin <= low and high <= margin
        rows.append(row)
    return rows


def show(name: str, rows: list[dict], margin: float | None) -> str:
    """The table of `compared`."""
    form, better = forms(name), about(name).better
    counts = "wins / ties / losses" if better else "higher / equal / lower"
    head = ["run", "n", "recordings", "estimate [95 %]", "difference [95 %]", "p", counts]
    lines = []
    for row in rows:
        own = "-" if not row["n"] else interval(row["mean"], row["low"], row["high"], form)
        cells = [row["run"], row["n"], row["groups"], own]
        against = row.get("against")
        if not against or not row["n"]:
            cells += ["-"] * 3
        else:
            difference = [against[key] for key in ("difference", "low", "high")]
            counted = [against[key] for key in ("wins", "ties", "losses")]
            cells += [interval(*difference, "+" + form), f"{against['p']:.4f}"]
            cells.append(" / ".join(map(str, counted)))
        if margin is not None:
            cells.append({True: "yes", False: "no", None: "-"}[row.get("within")])
        lines.append(cells)
    if margin is not None:
        head.append(f"within ±{margin:g}")
    return table(head, lines)


def losses(items: Items, name: str) -> dict[str, list[dict]]:
    """By run: the items that lost the most against the first, worst first."""
    (_, base), *rest = items.items()
    better, found = about(name).better or 1, {}
    for label, own in rest:
        known = [
            {"id": a["id"], "base": a["scores"][name], "own": b["scores"][name]}
            for a, b in zip(base, own, strict=True)
            if a["scores"].get(name) is not None and b["scores"].get(name) is not None
        ]
        lost = [row for row in known if better * (row["own"] - row["base"]) < 0]
        lost.sort(key=lambda row: (better * (row["own"] - row["base"]), row["id"]))
        found[label] = lost[:LOSSES]
    return found


def agreement(base: Run, run: Run, items: Sequence[dict]) -> dict | None:
    """How near the run's targets are to the base's: the median over items of their SI-SDR in dB,
    mean over seeds first, and how many items are equal to the bit. None where no sounds are kept.
    """
    wanted, ratios, equal, count = {item["id"] for item in items}, [], 0, 0
    prompt = items[0]["prompt"] if items else None
    tasks: dict[str, list[Task]] = {}
    for task in sorted({Task.of(row) for row in base.rows} & {Task.of(row) for row in run.rows}):
        paths = [one.sounds(task) / "target.wav" for one in (base, run)]
        if task.prompt == prompt and task.id in wanted and all(path.exists() for path in paths):
            tasks.setdefault(task.id, []).append(task)
    for own in tasks.values():
        found = [near(*(one.sounds(task) / "target.wav" for one in (base, run))) for task in own]
        known = [ratio for _, ratio in found if np.isfinite(ratio)]
        count, equal = count + 1, equal + all(same for same, _ in found)
        ratios += [float(np.mean(known))] if known else []
    if not count:
        return None
    return {"n": count, "median": float(np.median(ratios)) if ratios else None, "equal": equal}


def near(base: Path, own: Path) -> tuple[bool, float]:
    """Whether two sounds are equal, and the SI-SDR of one against the other."""
    (a, rate), (b, other) = (soundfile.read(path, dtype="float32") for path in (base, own))
    if rate != other or a.shape[1:] != b.shape[1:]:
        return False, -np.inf
    size = min(len(a), len(b))
    return np.array_equal(a, b), si_sdr(b[:size].ravel(), a[:size].ravel())


def show_agreement(found: dict[str, dict | None]) -> str:
    rows = []
    for label, row in found.items():
        if row:
            median = "-" if row["median"] is None else f"{row['median']:.1f}"
            rows.append([label, row["n"], "equal" if row["equal"] == row["n"] else median,
                         row["equal"]])  # fmt: skip
    return table(["run", "n", "SI-SDR to the base's target, median, dB", "bit-equal"], rows)


def of_prompt(runs: dict[str, Run], prompt: str, options) -> dict | None:
    """Prints what is found of one kind of prompt."""
    items, left = joined(runs, prompt, options.setting)
    labels, base = list(runs), next(iter(runs.values()))
    count = len(items[labels[0]])
    print(f"\n## {prompt}: {plural(count, 'item')} in all runs\n")
    for label, ids in left.items():
        if ids:
            print(f"Left out, since others lack them: {plural(len(ids), 'item')} of {cell(label)} "
                  f"({cell(some(ids))})\n")  # fmt: skip
    if not count:
        return None
    found = {"prompt": prompt, "items": count, "left out": left, "metrics": {}}
    there = names(chain.from_iterable(items.values()))
    chosen = [name for name in options.metric or HEADLINES if name in there] or there[:1]
    for name in chosen:
        rows = compared(items, name, base.aggregate, options.margin)
        found["metrics"][name] = rows
        print(f"**{title(name)}**\n\n{show(name, rows, options.margin)}\n")
    main, form = chosen[0], forms(chosen[0])
    found["losses"] = losses(items, main)
    for label, lost in found["losses"].items():
        if lost and len(runs) == 2:
            print(f"The largest losses of {cell(label)}, {title(main)}\n")
            lines = [
                [row["id"], f"{row['base']:{form}}", f"{row['own']:{form}}",
                 f"{row['own'] - row['base']:+{form}}"]
                for row in lost
            ]  # fmt: skip
            print(table(["item", labels[0], label, "difference"], lines) + "\n")
    found["agreement"] = {label: agreement(base, runs[label], items[label]) for label in labels[1:]}
    if any(found["agreement"].values()):
        print(show_agreement(found["agreement"]) + "\n")
    if options.picture:
        suffix = f"-{prompt}" if len(options.prompts) > 1 else ""
        path = options.picture.with_stem(options.picture.stem + suffix)
        plots.differences(items, main, path)
    return found


def main(arguments: list[str]) -> None:
    parser = report.parser(__doc__)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a run's folder; the first: the base"
    )
    parser.add_argument("--metric", nargs="+", metavar="NAME", help="instead of the headline ones")
    parser.add_argument("--prompt", nargs="+", metavar="KIND", help="of these kinds only")
    parser.add_argument("--setting", nargs="+", metavar="NAME", help="of these (sub)sets only")
    said = "also tell whether the interval of a difference lies within so much of zero"
    parser.add_argument("--margin", type=positive, help=said)
    path = partial(writable, suffixes=(".png",))
    said = "draw the differences of the first metric, item by item"
    parser.add_argument("--picture", metavar="PNG", type=path, help=said)
    options = parser.parse_args(arguments)
    if len(options.runs) < 2:
        raise SAMAudioError("compare takes two runs or more, the base first")
    read = [Run.read(folder) for folder in options.runs]
    runs = dict(zip(labels(read), read, strict=True))
    found = {"base": next(iter(runs)), "identities": others(runs), "warnings": warnings(runs)}
    kinds = dict.fromkeys(row["prompt"] for run in read for row in run.rows)
    options.prompts = [kind for kind in kinds if not options.prompt or kind in options.prompt]
    there = names(row for run in read for row in run.rows)
    for name in options.metric or ():
        if name not in there:
            raise SAMAudioError(f"no run has the metric {name!r}: they have {', '.join(there)}")
    if not options.prompts:
        raise SAMAudioError(f"no run has such prompts: they have {', '.join(kinds)}")
    if found["identities"]:
        rows = [[str(value)[:LONGEST] for value in row.values()] for row in found["identities"]]
        print(table(["what differs", *runs], rows) + "\n")
    else:
        print("The runs' identities are equal.\n")
    for warning in found["warnings"]:
        print(f"**{cell(warning)}.**\n")
    if not any(joined(runs, kind, options.setting)[0][found["base"]] for kind in options.prompts):
        raise SAMAudioError("the runs have scored no item in common, with the same prompt and seed")
    found["prompts"] = [of_prompt(runs, kind, options) for kind in options.prompts]
    report.write(options, rounded(found))


if __name__ == "__main__":
    report.run(main)
