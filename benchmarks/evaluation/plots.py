"""Pictures of runs, which need matplotlib."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.evaluation import statistics
from benchmarks.evaluation.runs import Run
from benchmarks.evaluation.summary import about, headline, pairs
from mlx_sam_audio.files import slug
from mlx_sam_audio.media import figures

BETTER, WORSE, MIDDLE = "#0b766e", "#b3261e", "#7d8791"
CLASSES = 40  # in a picture


def draw(run: Run, folder: Path) -> list[Path]:
    """Into a folder, the headline metric of each setting and prompt: by item, and by class where
    there are classes. Returns what was written. Raises SAMAudioError without matplotlib."""
    written = []
    for (setting, prompt), rows in pairs(run).items():
        items = statistics.merged(rows)
        name = headline(items)
        if name is None:
            continue
        title, stem = f"{setting}, {prompt}", f"{slug(setting)}-{slug(prompt)}"
        path = folder / f"{stem}-items.png"
        distribution(items, name, run.aggregate, title, path)
        written.append(path)
        if len({item.get("class") for item in items}) > 1:
            path = folder / f"{stem}-classes.png"
            by_class(items, name, title, path)
            written.append(path)
    return written


def distribution(items: Sequence[dict], name: str, aggregate: str, title: str, path: Path) -> None:
    """Every item's score, the worst first, beside the mean and its interval."""
    known, better = ranked(items, name)[0], about(name).better
    values = [item["scores"][name] for item in known]
    classes = [item.get("class") for item in known]
    found = statistics.summarise(values, [item["group"] for item in known], classes, aggregate)
    picture = figures.figure(8, 3.6)
    axis = picture.subplots()
    before = statistics.column(known, name, "mixture")
    gains = [0 if b is None else a - b for a, b in zip(values, before, strict=True)]
    colours = [hue(better * gain) for gain in gains]
    axis.bar(np.arange(1, len(values) + 1), values, width=0.85, color=colours)
    mean = found["mean"]
    axis.axhline(mean, color="black", linewidth=1, label=f"{aggregate} {mean:.2f}")
    if found["low"] is not None:
        said = f"95 % interval {found['low']:.2f} to {found['high']:.2f}"
        axis.axhspan(found["low"], found["high"], color="black", alpha=0.12, lw=0, label=said)
    told = better and any(b is not None for b in before)
    against = "; red: worse than the untouched mixture" if told else ""
    lacking = f" ({len(items) - len(known)} not defined)" if len(items) > len(known) else ""
    axis.set(
        xlabel=f"{len(known)} items, {first_of(name)} first{lacking}{against}", ylabel=unit(name)
    )
    axis.set_xlim(0.4, len(values) + 0.6)
    integers(axis.xaxis)
    axis.set_title(f"{about(name).title}: {title}", loc="left", fontsize=10)
    axis.legend(frameon=False, fontsize=9)
    plain(axis)
    figures.save(picture, path)


def by_class(items: Sequence[dict], name: str, title: str, path: Path) -> None:
    """Each class's items, mean and interval; the worst class first."""
    known, better = ranked(items, name)
    classes: dict[str, list[dict]] = {}
    for item in known:
        given = item.get("class")
        classes.setdefault("no class" if given is None else str(given), []).append(item)
    found = {
        each: statistics.summarise(statistics.column(own, name), [i["group"] for i in own])
        for each, own in classes.items()
    }
    order = sorted(found, key=lambda each: (better * found[each]["mean"], each))
    shown = order if len(order) <= CLASSES else order[: CLASSES // 2] + order[-(CLASSES // 2) :]
    picture = figures.figure(8, 1.2 + 0.28 * len(shown))
    axis = picture.subplots()
    for place, each in enumerate(reversed(shown)):
        values = statistics.column(classes[each], name)
        axis.plot(values, [place] * len(values), "o", color=MIDDLE, alpha=0.6, markersize=4)
        mean, low, high = (found[each][key] for key in ("mean", "low", "high"))
        if low is not None:
            axis.plot([low, high], [place, place], "-", color=BETTER, linewidth=2)
        axis.plot([mean], [place], "D", color=BETTER, markersize=6)
    axis.set_yticks(
        range(len(shown)), [f"{each[:40]} (n {found[each]['n']})" for each in reversed(shown)]
    )
    axis.set_ylim(-0.6, len(shown) - 0.4)
    out = f"; {len(order) - len(shown)} classes between are left out" if order != shown else ""
    axis.set_xlabel(f"{unit(name)}; mean and 95 % interval of each class{out}")
    axis.set_title(f"{about(name).title}: {title}, by class", loc="left", fontsize=10)
    plain(axis)
    figures.save(picture, path)


def differences(items: dict[str, list[dict]], name: str, path: Path) -> None:
    """Of each run against the first: item against item, and the differences, the worst first.

    items: by the run's name, rows of the same items in the same order.
    """
    (base, first), *rest = items.items()
    better = about(name).better
    picture = figures.figure(9, 3.8 * len(rest))
    axes = picture.subplots(len(rest), 2, squeeze=False, width_ratios=[1, 1.4])
    for (left, right), (label, own) in zip(axes, rest, strict=True):
        both = zip(statistics.column(first, name), statistics.column(own, name), strict=True)
        known = np.array([pair for pair in both if None not in pair], float).reshape(-1, 2)
        change = np.diff(known, axis=1)[:, 0]
        left.scatter(*known.T, s=16, c=[hue(better * x) for x in change], alpha=0.8, linewidths=0)
        if len(known):
            left.axline((known.min(),) * 2, slope=1, color="black", linewidth=0.8)
        left.set(xlabel=f"{base}, {unit(name)}", ylabel=f"{label}, {unit(name)}")
        left.set_aspect("equal", adjustable="datalim")
        left.set_title(f"{about(name).title}, by item", loc="left", fontsize=10)
        change = np.sort((better or 1) * change) * (better or 1)
        at = np.arange(1, len(change) + 1)
        right.bar(at, change, width=0.85, color=[hue(better * x) for x in change])
        right.axhline(0, color="black", linewidth=0.8)
        right.set(
            xlabel=f"{len(change)} items, {first_of(name)} first",
            ylabel=f"difference, {unit(name)}",
        )
        right.set_title(f"{label} - {base}", loc="left", fontsize=10)
        integers(right.xaxis)
        plain(left, right)
    figures.save(picture, path)


def ranked(items: Sequence[dict], name: str) -> tuple[list[dict], int]:
    """The items that have a score, the worst first, and which way is better."""
    better = about(name).better or 1
    known = [item for item in items if item["scores"].get(name) is not None]
    return sorted(known, key=lambda item: (better * item["scores"][name], item["id"])), better


def first_of(name: str) -> str:
    return "the worst" if about(name).better else "the lowest"


def hue(gain: float) -> str:
    return MIDDLE if gain == 0 else BETTER if gain > 0 else WORSE


def unit(name: str) -> str:
    metric = about(name)
    return metric.unit or metric.title


def integers(axis) -> None:
    axis.get_major_locator().set_params(integer=True)


def plain(*axes) -> None:
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.set_axisbelow(True)
