"""What a run found, in numbers and as tables.

Of each setting and kind of prompt: how many items were asked, scored, failed and missing; of each
metric the estimate beside the untouched mixture and the codec's ceiling.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from benchmarks.evaluation import statistics
from benchmarks.evaluation.dataset import PROMPTS
from benchmarks.evaluation.runs import Run
from benchmarks.evaluation.scores import METRICS, Metric

HEADLINES = ("si_sdri", "sdri", "residual_si_sdri", "under", "silenced", "activity_iou")
HEADLINES += ("judge_overall", "clap", "imagebind", "aes_quality")
IMPROVEMENTS = {name for name in METRICS if name.endswith("sdri")}  # over the mixture already
TRIVIAL = {"si_sar", "under"}  # of the mixture, which has no artefacts and its own level
NAMED = 5  # items, of those that failed
CLASSES = 30  # in a table
FEW = 10  # recordings, below which a percentile bootstrap tells too little
ARROWS = {1: " ↑", -1: " ↓", 0: ""}
AGGREGATES = {
    "mean": "mean",
    "macro-mean": "mean of classes",
    "class-median-mean": "mean of classes' medians",
}


def about(name: str) -> Metric:
    """A metric by its name; of those that came from outside, no more is known: WER is not PESQ."""
    return METRICS.get(name) or Metric(name, "", 0, "outside", None)


def names(items: Iterable[dict]) -> list[str]:
    """The metrics of some items, in the order of columns."""
    found = {name for item in items for name in item["scores"]}
    return [*(name for name in METRICS if name in found), *sorted(found - METRICS.keys())]


def pairs(run: Run) -> dict[tuple[str, str], list[dict]]:
    """The rows of each setting and prompt; a row may be of several settings."""
    found: dict[tuple[str, str], list[dict]] = {}
    for row in run.rows:
        for setting in row["settings"]:
            found.setdefault((setting, row["prompt"]), []).append(row)
    order = {prompt: i for i, prompt in enumerate(PROMPTS)}
    return dict(sorted(found.items(), key=lambda pair: (pair[0][0], order.get(pair[0][1], 99))))


def headline(items: Sequence[dict]) -> str | None:
    """The first metric that tells the most, of those that are defined somewhere."""
    values = {name: statistics.column(items, name) for name in names(items)}
    there = [name for name, column in values.items() if any(x is not None for x in column)]
    return next((name for name in (*HEADLINES, *there) if name in there), None)


def summary(run: Run) -> dict:
    """All that `markdown` shows, as strict JSON; equal for equal rows."""
    meta = run.meta
    found = {
        "dataset": meta["dataset"].get("name"),
        "model": meta["identity"].get("model"),
        "deviations": list(meta.get("deviations") or ()),
        "aggregate": run.aggregate,
        "pairs": [
            {"setting": setting, "prompt": prompt, **pair(rows, run.aggregate)}
            for (setting, prompt), rows in pairs(run).items()
        ],
    }
    return rounded(found)


def pair(rows: list[dict], aggregate: str) -> dict:
    """What is told of the rows of one setting and prompt."""
    items = statistics.merged(rows)
    scored = {item["id"] for item in items}
    errors = {
        status: {row["id"]: row["error"] for row in rows if row["status"] == status}
        for status in ("error", "missing")
    }
    main = headline(items)
    classes: dict[str, list[dict]] = {}
    for item in items if main else ():
        if item.get("class") is not None:
            classes.setdefault(str(item["class"]), []).append(item)
    return {
        "asked": len({row["id"] for row in rows}),
        "scored": len(items),
        "failed": {id: why for id, why in errors["error"].items() if id not in scored},
        "missing": {id: why for id, why in errors["missing"].items() if id not in scored},
        "partly_failed": {id: why for id, why in errors["error"].items() if id in scored},
        "recordings": len({item["group"] for item in items}),
        "seeds": max((item["seeds"] for item in items), default=0),
        "headline": main,
        "metrics": {name: measured(items, name, aggregate) for name in names(items)},
        "classes": {
            name: statistics.summarise(statistics.column(own, main), [i["group"] for i in own])
            for name, own in sorted(classes.items())
        },
    }


def measured(items: list[dict], name: str, aggregate: str) -> dict:
    """A metric over items: the estimate's, the mixture's, the ceiling's; the gain over the mixture
    and the share of items that have one; what is not defined, by its reason."""
    groups = [item["group"] for item in items]
    classes = [item.get("class") for item in items]
    of = groups, classes, aggregate
    own, before, ceiling = (statistics.column(items, name, part) for part in statistics.PARTS)
    if name in TRIVIAL:
        before = [None] * len(items)
    if name in IMPROVEMENTS:
        gains = own
    else:
        both = zip(own, before, strict=True)
        gains = [None if a is None or b is None else a - b for a, b in both]
    better, known = about(name).better, [gain for gain in gains if gain is not None]
    lacking = (item for item in items if item["scores"].get(name) is None)
    why = Counter(item["why"].get(name, "not scored") for item in lacking)
    return {
        **statistics.summarise(own, *of),
        "mixture": statistics.average(before, *of),
        "codec": statistics.average(ceiling, *of),
        "gain": None if name in IMPROVEMENTS or not known else statistics.summarise(gains, *of),
        "improved": sum(better * x > 0 for x in known) / len(known) if known and better else None,
        "seed_deviation": statistics.seed_deviation(items, name),
        "fewer_seeds": sum(name in item["fewer"] for item in items),
        "undefined": dict(sorted(why.items())),
    }


def rounded(value: object) -> object:
    """Without the digits that differ between libraries of linear algebra."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value


def markdown(found: dict) -> str:
    """The tables of a `summary`."""
    parts = [f"# {cell(found['dataset'])}: {cell(found['model'])}"]
    if found["deviations"]:
        parts.append("\n".join(f"- {cell(each)}" for each in found["deviations"]))
    parts.append(
        f"Estimates are the {AGGREGATES[found['aggregate']]} over items [95 % interval over "
        "recordings]; arrows tell which way is better."
    )
    if found["pairs"]:
        parts.append(overview(found["pairs"]))
    for each in found["pairs"]:
        parts += [f"## {cell(each['setting'])}, {each['prompt']}", counts(each)]
        if each["metrics"]:
            parts.append(scores(each))
        parts += [*undefined(each), *by_class(each)]
    few = [each["recordings"] for each in found["pairs"] if 1 < each["recordings"] < FEW]
    if few:
        parts.append(f"Intervals over fewer than {FEW} recordings are too narrow.")
    return "\n\n".join(parts) + "\n"


def overview(pairs: list[dict]) -> str:
    there = [
        name
        for name in HEADLINES
        if any(pair["metrics"].get(name, {"n": 0})["n"] for pair in pairs)
    ]
    rows = []
    for each in pairs:
        cells = [estimate(name, each["metrics"].get(name), each["scored"]) for name in there]
        n = f"{each['scored']} of {each['asked']}"
        rows.append([each["setting"], each["prompt"], n, each["recordings"], *cells])
    return table(["setting", "prompt", "n", "recordings", *map(title, there)], rows)


def counts(pair: dict) -> str:
    several = pair["seeds"] > 1
    text = (
        f"{pair['scored']} of {plural(pair['asked'], 'item')} scored, "
        f"{len(pair['failed'])} failed, {len(pair['missing'])} missing; "
        f"{plural(pair['recordings'], 'recording')}, "
        f"{plural(pair['seeds'], 'seed')}{' an item, averaged first' if several else ''}."
    )
    for key, said in (
        ("failed", "Failed"),
        ("missing", "Missing"),
        ("partly_failed", "Failed with some seeds, which are left out"),
    ):
        if pair[key]:
            told = [f"{cell(name)} ({cell(why)})" for name, why in list(pair[key].items())[:NAMED]]
            more = len(pair[key]) - NAMED
            text += f"\n\n{said}: {'; '.join(told)}{f'; and {more} more' if more > 0 else ''}."
    return text


def scores(pair: dict) -> str:
    several = pair["seeds"] > 1
    rows = []
    for name, found in pair["metrics"].items():
        if not found["n"]:
            continue
        form, n = forms(name), found["n"]
        before, ceiling = (
            "-" if part["mean"] is None else beside(f"{part['mean']:{form}}", part["n"], n)
            for part in (found["mixture"], found["codec"])
        )
        gain = found["gain"]
        cells = [
            title(name),
            n,
            interval(found["mean"], found["low"], found["high"], form),
            f"{found['median']:{form}}",
            "-" if found["improved"] is None else f"{found['improved']:.0%}",
            before,
            "-" if not gain else interval(gain["mean"], gain["low"], gain["high"], "+" + form),
            ceiling,
        ]
        if several:
            spread = found["seed_deviation"]
            cells.append("-" if spread is None else f"{spread:{form}}")
        rows.append(cells)
    head = ["metric", "n", "estimate", "median", "better than the mixture", "mixture"]
    head += ["gain over it", "codec", *(["sd over seeds"] if several else [])]
    return table(head, rows)


def undefined(pair: dict) -> list[str]:
    """By reason: how many items have none of which metrics."""
    found: dict[tuple[str, int], list[str]] = {}
    for name, each in pair["metrics"].items():
        for reason, count in each["undefined"].items():
            found.setdefault((reason, count), []).append(about(name).title)
    lines = [
        f"- {cell(reason)}: {cell('; '.join(titles))} ({plural(count, 'item')})"
        for (reason, count), titles in list(found.items())[: 2 * NAMED]
    ]
    if len(found) > 2 * NAMED:
        lines.append(f"- and {len(found) - 2 * NAMED} more reasons")
    said = ["Not defined:\n\n" + "\n".join(lines)] if lines else []
    fewer = sum(each["fewer_seeds"] for each in pair["metrics"].values())
    if fewer:
        said.append(f"{plural(fewer, 'score')} of an item are not defined for all of its seeds.")
    return said


def by_class(pair: dict) -> list[str]:
    if not pair["classes"]:
        return []
    name, form = pair["headline"], forms(pair["headline"])
    known = [(each, found) for each, found in pair["classes"].items() if found["n"]]
    rows = [
        [
            each,
            found["n"],
            found["groups"],
            interval(found["mean"], found["low"], found["high"], form),
            f"{found['median']:{form}}",
        ]
        for each, found in sorted(known, key=lambda row: row[1]["mean"])
    ]
    if len(rows) > CLASSES:
        middle = f"and {len(rows) - CLASSES} between"
        rows = [*rows[: CLASSES // 2], [middle, "", "", "", ""], *rows[-(CLASSES // 2) :]]
    return [f"{title(name)}, by class", table(["class", "n", "recordings", "mean", "median"], rows)]


def title(name: str) -> str:
    metric = about(name)
    return metric.title + (f", {metric.unit}" if metric.unit else "") + ARROWS[metric.better]


def forms(name: str) -> str:
    """How a metric's numbers are written."""
    return ".2f" if about(name).unit == "dB" else ".3f"


def interval(mean: float, low: float | None, high: float | None, form: str) -> str:
    return f"{mean:{form}}" + ("" if low is None else f" [{low:{form}}, {high:{form}}]")


def estimate(name: str, found: dict | None, n: int) -> str:
    if not found or not found["n"]:
        return "-"
    said = interval(found["mean"], found["low"], found["high"], forms(name))
    return beside(said, found["n"], n)


def beside(said: str, n: int, others: int) -> str:
    """A number, and of how many items it is where that is not as in the rest of the row."""
    return said if n == others else f"{said} (n {n})"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def cell(value: object) -> str:
    """Text that stays in its place in a table."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "\\<")


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(map(cell, row)) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])
