"""Which of several candidates is best? Rankers score them; higher is better.

A ranker is a function of candidates and residuals (k, T), their mixture (T,), the sample rate, the
description and the spans, to scores (k,).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np

from .errors import SAMAudioError
from .prompts import Span

Ranker = Callable[..., np.ndarray]


def ranker(kind: "str | Mapping[str, float] | Ranker") -> Ranker:
    """A ranker by name, as a weighted sum {name: weight} or "judge:1,consistency:0.1", or itself.

    Raises SAMAudioError for a name that does not exist.
    """
    if callable(kind):
        return kind
    if isinstance(kind, str):
        kind = parse(kind)
    unknown = sorted(set(kind) - set(RANKERS))
    if unknown or not kind:
        raise SAMAudioError(
            f"there is no ranker {', '.join(unknown) or 'without a name'}: choose of "
            f"{', '.join(RANKERS)}"
        )
    return lambda *sounds, **known: sum(
        weight * RANKERS[name](*sounds, **known) for name, weight in kind.items()
    )


def parse(text: str) -> dict[str, float]:
    parts = [part.partition(":") for part in text.split(",")]
    try:
        return {name.strip(): float(weight or 1) for name, _, weight in parts}
    except ValueError:
        raise SAMAudioError(
            f'cannot read the ranker {text!r}: write "judge" or "judge:1,consistency:0.1"'
        ) from None


def consistency(
    candidates: np.ndarray, residuals: np.ndarray, mixture: np.ndarray, **known
) -> np.ndarray:
    """How far under the mixture, in dB, that lies in which target + residual differ from it.

    Nothing tells the model that both add up: where it is sure, they do.
    """
    misfit = np.square(mixture - candidates - residuals, dtype=np.float64).sum(axis=1)
    energy = np.square(mixture, dtype=np.float64).sum()
    return -10 * np.log10((misfit + 1e-12) / (energy + 1e-12))


@cache
def judging():
    from .judge import Judge

    return Judge.from_pretrained()


def judge(
    candidates: np.ndarray,
    residuals: np.ndarray,
    mixture: np.ndarray,
    *,
    sample_rate: int,
    description: str,
    spans: Sequence[Span] = (),
) -> np.ndarray:
    """SAM-Audio Judge's overall score; its weights are loaded at the first use."""
    model = judging()
    if model.sample_rate != sample_rate:
        raise SAMAudioError(
            f"the judge hears {model.sample_rate} Hz, these candidates have {sample_rate} Hz"
        )
    return np.array([scores.overall for scores in model(mixture, candidates, description)])


RANKERS: dict[str, Ranker] = {"consistency": consistency, "judge": judge}
