"""Several candidates from one encoded prompt, of which a ranker names the best.

The noise decides which of the plausible sounds the model picks; candidate i has the noise of
seed + i, and equals the run with that seed.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..errors import SAMAudioError, shown
from ..kinds import is_array
from ..ranking.rank import first
from ..settings import Settings

MARGIN = 0.05  # "auto" ends when the best score leads the second by this part of itself

Scores = dict[str, list[float]]


def ranked(
    make: Callable[[list[int]], list[np.ndarray]],
    rank: Callable[[np.ndarray], Scores],
    settings: Settings,
) -> list[tuple[int, np.ndarray, dict[str, float]]]:
    """Seed, waveforms and scores of each candidate, in the order of their seeds.

    make(seeds): the waveforms (voices, 2, T) of each. rank: tells the scores of several (k, voices,
    2, T).
    """
    found, scores = [], {}
    for total in settings.rounds:
        found += make([settings.seed + i for i in range(len(found), total)])
        scores = rank(np.stack(found))
        if settings.candidates == "auto" and decided(first(scores)):
            break
    seeds = range(settings.seed, settings.seed + len(found))
    rows = (dict(zip(scores, row, strict=True)) for row in zip(*scores.values(), strict=True))
    return list(zip(seeds, found, rows, strict=True))


def decided(scores: Sequence[float]) -> bool:
    """Does the best lead clearly?"""
    second, best = sorted(scores)[-2:]
    return best - second > MARGIN * abs(best)


def averaged(scores: Sequence[Scores]) -> Scores:
    """Of all voices."""
    return {name: np.mean([one[name] for one in scores], axis=0).tolist() for name in scores[0]}


def checked(scores: object, count: int) -> Scores:
    """What a `Ranker` gave, of so many candidates."""
    scores = scores if isinstance(scores, Mapping) else {"score": scores}
    rows = {}
    for name, row in scores.items():
        if not is_array(row):
            raise SAMAudioError(f"the ranker returned {shown(row)} as {name}, not numbers")
        rows[name] = row = np.array(row, dtype=np.float64)
        if row.shape != (count,) or not np.isfinite(row).all():
            raise SAMAudioError(f"the ranker returned {row} as {name} of {count} candidates")
    if not rows:
        raise SAMAudioError("the ranker returned no scores")
    return {name: row.tolist() for name, row in rows.items()}
