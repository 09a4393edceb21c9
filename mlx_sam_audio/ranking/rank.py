"""Which of several candidates is best? Rankers score them; higher is better.

A ranker is a function of candidates and residuals (k, T), their mixture (T,), the sample rate, the
description, the spans and the video, to scores (k,); or to several of them by name, of which the
first counts and the others are reported.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import mlx.nn as nn
import numpy as np

from ..errors import SAMAudioError
from ..loading.store import local
from ..media import audio
from ..media.video import MaskedVideo
from ..prompts import Span
from . import activity

Ranker = Callable[..., np.ndarray | Mapping[str, np.ndarray]]
DEFAULT = "consensus"


def ranker(
    kind: "str | Mapping[str, float] | Ranker" = DEFAULT,
    models: Mapping[str, str | Path] | None = None,
) -> Ranker:
    """A ranker by name, as a weighted sum {name: weight} or "clap:5,judge:1", or itself.

    The sum, "score", is of scores as they are: that one is the reference's ensemble; each of them
    follows by its name. models: where "clap", "judge" and "imagebind" lie, if not in the local
    store under these names; they are loaded when a separation is planned, or at their first use.
    Raises SAMAudioError for what does not exist.
    """
    if callable(kind):
        return kind
    weights = parse(kind) if isinstance(kind, str) else kind
    for problem, names, known in (
        ("ranker", sorted(set(weights) - set(RANKERS)), RANKERS),
        ("model for", sorted(set(models or {}) - set(MODELS)), MODELS),
    ):
        if names:
            raise SAMAudioError(
                f"there is no {problem} {', '.join(names) or 'without a name'}: choose from "
                f"{', '.join(known)}"
            )
    if not weights or not all(math.isfinite(weight) for weight in weights.values()):
        raise SAMAudioError(f"{kind!r} is no ranker: give names with finite weights")
    places = {name: (models or {}).get(name, name) for name in MODELS if name in weights}
    return Weighted(dict(weights), {name: settled(place) for name, place in places.items()})


@dataclass(frozen=True)
class Weighted:
    """A weighted sum of rankers, and where the models of those that have one lie."""

    weights: Mapping[str, float]
    places: Mapping[str, str | Path]

    def __call__(self, *sounds, **known) -> dict[str, np.ndarray]:
        total, parts = 0, {}
        for name, weight in self.weights.items():
            rows = by_name(RANKERS[name](*sounds, place=self.places.get(name), **known), name)
            total = total + weight * first(rows)
            parts |= rows
        return {"score": total, **parts}

    def check(self, spans: bool, video: bool) -> None:
        """Raises SAMAudioError if one of them needs what there will not be."""
        for name, given in dict(activity=spans, imagebind=video).items():
            if name in self.weights:
                need(name, given)

    def networks(self) -> list[nn.Module]:
        """Those whose weights a call takes memory for."""
        return [loaded(name, self.places[name]).network for name in self.weights if name in MODELS]


def need(name: str, given: bool) -> None:
    if not given:
        raise SAMAudioError(f'the ranker "{name}" needs {NEEDS[name]}: give one, or leave it out')


def by_name(scores: np.ndarray | Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """What a ranker of that name gave, as a dict."""
    if isinstance(scores, Mapping):
        return {f"{name} {part}": row for part, row in scores.items()}
    return {name: scores}


def first(scores: Mapping[str, np.ndarray]) -> np.ndarray:
    """The scores that count."""
    return next(iter(scores.values()))


def parse(text: str) -> dict[str, float]:
    parts = [part.partition(":") for part in text.split(",")]
    try:
        return {name.strip(): float(weight or 1) for name, _, weight in parts}
    except ValueError:
        raise SAMAudioError(
            f'cannot read the ranker {text!r}: write "judge" or "clap:5,judge:1"'
        ) from None


def consensus(
    candidates: np.ndarray,
    residuals: np.ndarray,
    mixture: np.ndarray,
    *,
    sample_rate: int | None = None,
    spans: Sequence[Span] = (),
    **known,
) -> np.ndarray:
    """How much a candidate is like the others: its mean correlation with them, from -1 to 1.

    What only one noise brings forth is seldom right. Where "+" spans are given, `active` is added.
    """
    norms = np.linalg.norm(candidates.astype(np.float64), axis=1, keepdims=True)
    directions = candidates / np.maximum(norms, 1e-12)
    likeness = directions @ directions.T
    scores = (likeness.sum(axis=1) - np.diag(likeness)) / max(len(candidates) - 1, 1)
    return scores + agreements(candidates, sample_rate, spans) if wanted(spans) else scores


def consistency(
    candidates: np.ndarray, residuals: np.ndarray, mixture: np.ndarray, **known
) -> np.ndarray:
    """How far under the mixture, in dB, that lies in which target + residual differ from it.

    The model estimates both by itself. On the demo model this prefers poor separations that add up
    (docs/ranking.md), so it is not the default.
    """
    misfit = np.square(mixture - candidates - residuals, dtype=np.float64).sum(axis=1)
    energy = np.square(mixture, dtype=np.float64).sum()
    return -10 * np.log10((misfit + 1e-12) / (energy + 1e-12))


def active(
    candidates: np.ndarray,
    residuals: np.ndarray,
    mixture: np.ndarray,
    *,
    sample_rate: int,
    spans: Sequence[Span] = (),
    **known,
) -> np.ndarray:
    """Is there sound where "+" spans say so, and nowhere else? From 0 to 1."""
    need("activity", bool(wanted(spans)))
    return agreements(candidates, sample_rate, spans)


def wanted(spans: Sequence[Span]) -> list[tuple[float, float]]:
    return [(span.start, span.end) for span in spans if span.sign == "+"]


def agreements(candidates: np.ndarray, sample_rate: int, spans: Sequence[Span]) -> np.ndarray:
    scores = [activity.agreement(wave, sample_rate, wanted(spans)) for wave in candidates]
    return np.array(scores)


def clap(
    candidates: np.ndarray,
    *others: np.ndarray,
    place: str | Path,
    sample_rate: int,
    description: str,
    **known,
) -> np.ndarray:
    """CLAP's similarity of candidate and description, from -1 to 1."""
    return loaded("clap", place)(candidates, description, sample_rate)


def judge(
    *sounds: np.ndarray, place: str | Path, sample_rate: int, description: str, **known
) -> dict[str, np.ndarray]:
    """SAM-Audio Judge's scores: overall, recall, precision, faithfulness."""
    model, (candidates, _, mixture) = loaded("judge", place), sounds
    waves = np.concatenate([mixture[None], candidates])
    mixture, *candidates = audio.resample(waves, sample_rate, model.sample_rate)
    rows = [asdict(scores) for scores in model(mixture, candidates, description)]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def imagebind(
    candidates: np.ndarray,
    *others: np.ndarray,
    place: str | Path,
    sample_rate: int,
    video: MaskedVideo | None = None,
    **known,
) -> np.ndarray:
    """ImageBind's similarity of candidate and masked video, from -1 to 1."""
    need("imagebind", video is not None)
    return loaded("imagebind", place)(candidates, sample_rate, video)


def settled(place: str | Path) -> str | Path:
    """One name for each folder, whatever becomes of the current folder or the store."""
    folder = local(place)
    return place if folder is None else folder.resolve()


@cache
def loaded(name: str, place: str | Path):
    from .clap import CLAP
    from .imagebind import ImageBind
    from .judge import Judge

    classes = {"clap": CLAP, "judge": Judge, "imagebind": ImageBind}
    return classes[name].from_pretrained(place)


NEEDS = {"activity": '"+" spans', "imagebind": "a video"}
MODELS = ("clap", "judge", "imagebind")
RANKERS: dict[str, Ranker] = {
    "consensus": consensus,
    "consistency": consistency,
    "judge": judge,
    "clap": clap,
    "activity": active,
    "imagebind": imagebind,
}
