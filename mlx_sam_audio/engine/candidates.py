"""Several candidates from one encoded prompt, of which a ranker names the best.

The noise decides which of the plausible sounds the model picks; candidate i has the noise of
seed + i, and equals the run with that seed.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from ..errors import SAMAudioError, shown
from ..ranking.rank import first
from .separation import Separation

ROUNDS = (2, 4, 8)  # how many candidates there are after each round of "auto"
MOST = 64
MARGIN = 0.05  # "auto" ends when the best score leads the second by this part of itself


def rounds(count: int | str) -> tuple[int, ...]:
    """How many candidates to have after each round. Raises SAMAudioError."""
    if isinstance(count, str) and count == "auto":
        return ROUNDS
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST:
        raise SAMAudioError(f'candidates must be 1 to {MOST}, or "auto", not {shown(count)}')
    return (count,)


def decided(scores: list[float]) -> bool:
    """Does the best lead clearly?"""
    second, best = sorted(scores)[-2:]
    return best - second > MARGIN * abs(best)


def ranked(make: Callable, count: int | str, seed: int, rank: Callable) -> list[Separation]:
    """Candidates in the order of their seeds, with their scores.

    make(seeds): one `Separation` for each. rank(targets, residuals): of stems (k, T), what a
    `Ranker` gives.
    """
    found = []
    for total in rounds(count):
        found += make([seed + i for i in range(len(found), total)])
        targets = np.stack([np.array(one.target) for one in found])
        residuals = np.stack([np.array(one.residual) for one in found])
        scores = checked(rank(targets, residuals), len(found))
        if count == "auto" and decided(first(scores)):
            break
    rows = zip(*scores.values(), strict=True)
    return [
        replace(one, score=row[0], scores=dict(zip(scores, row, strict=True)))
        for one, row in zip(found, rows, strict=True)
    ]


def checked(scores, count: int) -> dict[str, list[float]]:
    scores = scores if isinstance(scores, Mapping) else {"score": scores}
    rows = {name: np.array(row, dtype=np.float64) for name, row in scores.items()}
    for name, row in rows.items():
        if row.shape != (count,) or not np.isfinite(row).all():
            raise SAMAudioError(f"the ranker returned {row} as {name} of {count} candidates")
    if not rows:
        raise SAMAudioError("the ranker returned no scores")
    return {name: row.tolist() for name, row in rows.items()}
