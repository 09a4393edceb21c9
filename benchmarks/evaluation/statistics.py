"""Means with their intervals, and two runs against each other, in numpy.

Seeds are averaged within an item first, so that more of them are not more items. Whole recordings
(groups) are drawn again, not items: those of one recording are alike, and an interval that took
them for strangers would be too narrow.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

DRAWS = 10_000
BLOCK = 2**21  # numbers drawn at once
PARTS = ("scores", "mixture", "codec")
AGGREGATES = ("mean", "macro-mean", "class-median-mean")


def merged(rows: Sequence[dict]) -> list[dict]:
    """One row per item of the rows of one prompt, by id: seeds averaged, failed ones left out.

    A score is the mean over the seeds that define it, None where none does; then "why" tells the
    first reason. Added are "seeds", how many there are; "fewer", for a metric that some of them
    leave undefined, how many define it; and "spread", the variance over seeds where two define it.
    """
    taken: dict[str, list[dict]] = {}
    for row in sorted(rows, key=lambda row: (row["id"], row["seed"])):
        if row["status"] == "ok":
            taken.setdefault(row["id"], []).append(row)
    return [over_seeds(rows) for rows in taken.values()]


def over_seeds(rows: list[dict]) -> dict:
    item = {**rows[0], "seeds": len(rows), "fewer": {}, "spread": {}, "why": {}}
    for part in PARTS:
        item[part] = {}
        for name in dict.fromkeys(name for row in rows for name in row.get(part) or {}):
            known = [x for row in rows if (x := (row.get(part) or {}).get(name)) is not None]
            item[part][name] = float(np.mean(known)) if known else None
            if part == "scores" and len(known) > 1:
                item["spread"][name] = float(np.var(known, ddof=1))
            if part == "scores" and 0 < len(known) < len(rows):
                item["fewer"][name] = len(known)
    for row in rows:
        for name, reason in (row.get("why") or {}).items():
            if item["scores"].get(name) is None:
                item["why"].setdefault(name, reason)
    return item


def column(items: Sequence[dict], name: str, part: str = "scores") -> list[float | None]:
    return [(item.get(part) or {}).get(name) for item in items]


def seed_deviation(items: Sequence[dict], name: str) -> float | None:
    """Of a metric over the seeds of one item: the root of the mean of the items' variances."""
    spreads = [item["spread"][name] for item in items if name in item["spread"]]
    return float(np.sqrt(np.mean(spreads))) if spreads else None


def average(
    values: Sequence[float | None],
    groups: Sequence[str],
    classes: Sequence[str | None] | None = None,
    aggregate: str = "mean",
) -> dict:
    """{"n", "mean"} as `summarise` gives them, without its interval."""
    (values,), groups, classes = ordered([values], groups, classes, aggregate)
    if not len(values):
        return {"n": 0, "mean": None}
    whole = np.ones((1, int(groups.max()) + 1))
    mean = statistic(values, groups, classes, aggregate)(whole)
    return {"n": len(values), "mean": float(mean[0])}


def summarise(
    values: Sequence[float | None],
    groups: Sequence[str],
    classes: Sequence[str | None] | None = None,
    aggregate: str = "mean",
) -> dict:
    """Of one value per item: {"n", "groups", "mean", "low", "high", "median"}.

    "mean" is the mean, the mean of the classes' means ("macro-mean") or of their medians
    ("class-median-mean"); items without a class are a class. "low" and "high" bound its 95 %
    percentile bootstrap interval over groups; of one group there is none. The median is of all
    items. What is None is left out. The order of items does not matter, to the last bit.
    """
    (values,), groups, classes = ordered([values], groups, classes, aggregate)
    if not len(values):
        empty = dict.fromkeys(("mean", "low", "high", "median"))
        return {"n": 0, "groups": 0, **empty}
    found = statistic(values, groups, classes, aggregate)
    count = int(groups.max()) + 1
    low, high = limits(found(weights) for weights in redrawn(count)) if count > 1 else (None, None)
    mean, median = float(found(np.ones((1, count)))[0]), float(np.median(values))
    numbers = {"mean": mean, "low": low, "high": high, "median": median}
    return {"n": len(values), "groups": count, **numbers}


def paired(
    a: Sequence[float | None],
    b: Sequence[float | None],
    groups: Sequence[str],
    classes: Sequence[str | None] | None = None,
    aggregate: str = "mean",
    better: int = 1,
) -> dict:
    """b against a, of the same items, as far as both are known: {"n", "groups", "difference",
    "low", "high", "p", "wins", "ties", "losses"}.

    The difference is of what `summarise` calls the mean, its interval over the same draws. p is of
    a two-sided permutation test which swaps a and b within whole groups; its statistic is the
    mean difference, of classes first unless the aggregate is "mean". wins: how many items of b are
    better; where neither direction is (better = 0), higher.
    """
    (a, b), groups, classes = ordered([a, b], groups, classes, aggregate)
    wins, losses = np.sum((better or 1) * (b - a) > 0), np.sum((better or 1) * (b - a) < 0)
    counts = {"wins": int(wins), "ties": int(len(a) - wins - losses), "losses": int(losses)}
    if not len(a):
        empty = dict.fromkeys(("difference", "low", "high", "p"))
        return {"n": 0, "groups": 0, **empty, **counts}
    first, second = (statistic(values, groups, classes, aggregate) for values in (a, b))
    count = int(groups.max()) + 1
    drawn = (second(weights) - first(weights) for weights in redrawn(count))
    low, high = limits(drawn) if count > 1 else (None, None)
    whole = np.ones((1, count))
    shares = (b - a) / np.bincount(classes)[classes]
    numbers = {
        "difference": float((second(whole) - first(whole))[0]),
        "low": low,
        "high": high,
        "p": sign_flip(np.bincount(groups, shares)),
    }
    return {"n": len(a), "groups": count, **numbers, **counts}


def ordered(
    series: Sequence[Sequence[float | None]],
    groups: Sequence[str],
    classes: Sequence[str | None] | None,
    aggregate: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values (K, n) known in all series, and numbers of their groups and classes, in an order that
    is of what they are. The plain mean knows one class only."""
    if aggregate not in AGGREGATES:
        raise ValueError(f"aggregate is one of {', '.join(AGGREGATES)}")
    values = np.array([[np.nan if x is None else x for x in each] for each in series], np.float64)
    known = np.isfinite(values).all(0)
    groups = np.unique(np.array(groups, str)[known], return_inverse=True)[1]
    plain = classes is None or aggregate == "mean"
    names = ["" if plain or name is None else name for name in (known if plain else classes)]
    classes = np.unique(np.array(names, str)[known], return_inverse=True)[1]
    values = values[:, known]
    order = np.lexsort((*values, classes, groups))
    return values[:, order], groups[order], classes[order]


def statistic(
    values: np.ndarray, groups: np.ndarray, classes: np.ndarray, aggregate: str
) -> Callable[[np.ndarray], np.ndarray]:
    """The aggregate as a function of how often each group counts: (D, G) -> (D,)."""
    shape = int(groups.max()) + 1, int(classes.max()) + 1
    own = [np.flatnonzero(classes == c) for c in range(shape[1])]
    if aggregate == "class-median-mean":
        own = [rows[np.argsort(values[rows], kind="stable")] for rows in own]
        return lambda weights: np.nanmean(
            [medians(values[rows], weights[:, groups[rows]]) for rows in own], axis=0
        )
    sums, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, (groups, classes), values)
    np.add.at(counts, (groups, classes), 1)

    def means(weights: np.ndarray) -> np.ndarray:
        numbers = weights @ counts  # 0 of a class that was not drawn, which then does not count
        return np.nanmean((weights @ sums) / np.where(numbers, numbers, np.nan), axis=1)

    return means


def medians(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of sorted values (n,), each taken as often as `weights` (D, n) say; NaN of none."""
    passed = np.cumsum(weights, axis=1)
    total = passed[:, -1:]
    low, high = ((passed > np.floor(at)).argmax(1) for at in ((total - 1) / 2, total / 2))
    return np.where(total[:, 0] > 0, (values[low] + values[high]) / 2, np.nan)


def redrawn(groups: int) -> Iterator[np.ndarray]:
    """How often each group is drawn, (D, groups) at a time; the same at each call."""
    rng, size = np.random.default_rng(0), max(1, BLOCK // groups)
    for start in range(0, DRAWS, size):
        count = min(size, DRAWS - start)
        cells = rng.integers(groups, size=(count, groups)) + groups * np.arange(count)[:, None]
        counts = np.bincount(cells.ravel(), minlength=count * groups)
        yield counts.reshape(count, groups).astype(np.float64)


def limits(drawn: Iterator[np.ndarray]) -> tuple[float, float]:
    low, high = np.quantile(np.concatenate(list(drawn)), (0.025, 0.975))
    return float(low), float(high)


def sign_flip(sums: np.ndarray) -> float:
    """p of a sum (G,) of which each sign might as well be the other: exact where there are few."""
    sums = sums[sums != 0]
    count = len(sums)
    least = abs(sums.sum()) - 1e-9 * np.abs(sums).sum()  # what equals it but for rounding counts
    if 2**count <= DRAWS:
        signs = 1 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
        return float(np.mean(np.abs(signs @ sums) >= least))
    rng, size, hits = np.random.default_rng(0), max(1, BLOCK // count), 0
    for start in range(0, DRAWS, size):
        signs = 1 - 2 * rng.integers(2, size=(min(size, DRAWS - start), count))
        hits += int(np.sum(np.abs(signs @ sums) >= least))
    return (hits + 1) / (DRAWS + 1)
