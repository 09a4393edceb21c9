"""Held-out mixtures of the demo model's sounds: what is wanted of each, and in which words."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import soxr

from mlx_sam_audio import Span
from mlx_sam_audio.demo import sounds


@dataclass(frozen=True)
class Item:
    """One mixture and what is wanted from it, at the sample rate that was asked for."""

    family: str
    target: np.ndarray  # (T,)
    residual: np.ndarray  # (T,)
    spans: tuple[Span, ...]
    intermittent: bool  # its times tell it from each of the others
    phrase: str
    other: str  # a phrase for another sound of the mixture
    absent: str  # a phrase for a sound that is not in it

    @property
    def mixture(self) -> np.ndarray:
        return self.target + self.residual


def phrase(rng: np.random.Generator, family: str) -> str:
    """Any wording, a third of them never seen in training."""
    known = sounds.FAMILIES[family]
    choices = known.heldout if rng.random() < 1 / 3 else known.phrases
    return choices[int(rng.random() * len(choices))]


def mixtures(
    rng: np.random.Generator, count: int, seconds: float, number: int | None = None
) -> Iterator[tuple[sounds.Mixture, int]]:
    """`count` mixtures, and which of their sounds is the target: families take turns."""
    families = list(sounds.FAMILIES)
    for i in range(count):
        wanted, drawn = families[i % len(families)], sounds.mixture(rng, seconds, number)
        while wanted not in drawn.names:
            drawn = sounds.mixture(rng, seconds, number)
        yield drawn, drawn.names.index(wanted)


def items(
    count: int, seed: int, seconds: float, sample_rate: int = sounds.SAMPLE_RATE
) -> Iterator[Item]:
    """`count` held-out mixtures; families take turns as the target."""
    rng = sounds.heldout_rng(seed)
    for mixture, index in mixtures(rng, count, seconds):
        sources = np.stack([resample(source, sample_rate) for source in mixture.sources])
        others = [name for i, name in enumerate(mixture.names) if i != index]
        absent = [name for name in sounds.FAMILIES if name not in mixture.names]
        times = sounds.spans(mixture.sources[index])
        yield Item(
            family=mixture.names[index],
            target=sources[index],
            residual=sources.sum(0) - sources[index],
            spans=tuple(Span("+", start, end) for start, end in times),
            intermittent=times_tell(mixture, index),
            phrase=phrase(rng, mixture.names[index]),
            other=phrase(rng, others[0]),
            absent=phrase(rng, absent[int(rng.random() * len(absent))]),
        )


def times_tell(mixture: sounds.Mixture, index: int) -> bool:
    """Whether a source sounds for less than 70 % of the time, and at other times than the others:
    less than 60 % of the time at which either sounds is shared."""
    active = np.stack([sounds.activity(source) for source in mixture.sources])
    target, others = active[index], np.delete(active, index, axis=0)
    shared = (target & others).sum(axis=1) / (target | others).sum(axis=1)
    return bool(target.mean() < 0.7 and shared.max() < 0.6)


def resample(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    if sample_rate == sounds.SAMPLE_RATE:
        return samples
    return soxr.resample(samples, sounds.SAMPLE_RATE, sample_rate)
