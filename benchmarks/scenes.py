"""Mixtures in stereo of known sources, and how near an estimate is to its source."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks import mixtures
from mlx_sam_audio.demo import sounds
from mlx_sam_audio.ranking.metrics import level, si_sdr

ANGLES = {"left": 0, "centre": 1 / 4, "right": 1 / 2, "antiphase": -1 / 4}  # in units of pi
ANYWHERE = ("pan", "delay", "reverb")
FRAME = 0.064  # seconds
CLEAN = 30.0  # decibels of a target over the others
MOST = 30.0  # decibels between channels: more is as much


@dataclass(frozen=True, eq=False)
class Scene:
    """A mixture of known sources, at the model's sample rate."""

    kind: str
    phrases: tuple[str, ...]  # for each of the K sources
    absent: str  # for a sound that is not in it
    sources: np.ndarray  # (K, 2, T), the first is the target
    sample_rate: int

    @property
    def mixture(self) -> np.ndarray:
        return self.sources.sum(0)

    @property
    def target(self) -> np.ndarray:
        return self.sources[0]


def scenes(
    count: int,
    seed: int,
    seconds: float,
    sample_rate: int,
    kinds: Sequence[str | tuple[str, str]] = ANYWHERE,
    number: int | None = None,
) -> Iterator[Scene]:
    """`count` held-out mixtures of two or three sounds, or of `number`. Kinds take turns: a place
    for all sources, or one for the target and one for the others."""
    rng = sounds.heldout_rng(seed)
    for i, (drawn, index) in enumerate(mixtures.mixtures(rng, count, seconds, number)):
        order = [index, *(k for k in range(len(drawn.names)) if k != index)]
        kind = kinds[i % len(kinds)]
        here, there = (kind, kind) if isinstance(kind, str) else kind
        images = [placed(drawn.sources[k], there if n else here, rng) for n, k in enumerate(order)]
        images = [[mixtures.resample(row, sample_rate) for row in image] for image in images]
        absent = [name for name in sounds.FAMILIES if name not in drawn.names]
        yield Scene(
            here if here == there else f"{here}, {there}",
            tuple(mixtures.phrase(rng, drawn.names[k]) for k in order),
            mixtures.phrase(rng, absent[int(rng.random() * len(absent))]),
            np.array(images, np.float32),
            sample_rate,
        )


def placed(source: np.ndarray, place: str, rng: np.random.Generator) -> np.ndarray:
    """The image (2, T) of a source (T,), panned at constant power: to a place of ANGLES, "moving"
    from left to right, or anywhere ("pan"), there with up to 0.6 ms between the channels ("delay")
    or a room of its own for each ("reverb")."""
    moving = np.linspace(0, np.pi / 2, len(source))
    angle = {name: part * np.pi for name, part in ANGLES.items()} | {"moving": moving}
    angle = angle.get(place, rng.uniform(0, np.pi / 2))
    image = np.stack([np.cos(angle) * source, np.sin(angle) * source])
    if place == "delay":
        late = int(rng.random() < 0.5)
        image[late] = delayed(image[late], rng.uniform(0, 0.6e-3) * sounds.SAMPLE_RATE)
    if place == "reverb":
        time = np.arange(round(0.5 * sounds.SAMPLE_RATE)) / sounds.SAMPLE_RATE
        room = rng.uniform(-1, 1, (2, len(time))) * 10 ** (-3 * time / rng.uniform(0.15, 0.5))
        room *= 10 ** (rng.uniform(-12, -3) / 20) / np.linalg.norm(room, axis=1, keepdims=True)
        size = 2 ** int(np.ceil(np.log2(len(source) + len(time))))
        wet = np.fft.irfft(np.fft.rfft(source, size) * np.fft.rfft(room, size), size)
        image += wet[:, : len(source)]
    return image


def delayed(samples: np.ndarray, by: float) -> np.ndarray:
    """Samples (T,) later by a part of samples too."""
    size = 2 * len(samples)
    turn = np.exp(-2j * np.pi * np.fft.rfftfreq(size) * by)
    return np.fft.irfft(np.fft.rfft(samples, size) * turn, size)[: len(samples)]


def judged(estimate: np.ndarray, scene: Scene, k: int = 0) -> dict[str, float]:
    """Of an estimate (2, T) of source k, in dB.

    joint: improvement of SI-SDR with one scale for both channels, which counts wrong levels
    between them; channels: mean of those that lie within 15 dB of the louder one, and in which the
    others are heard, if any is; image: error of the level difference; wander: standard deviation of
    that error over frames that sound.
    """
    source, mixture = scene.sources[k], scene.mixture
    levels = np.array([level(channel) for channel in source])
    heard = np.flatnonzero(levels > levels.max() - 15)
    mixed = [c for c in heard if si_sdr(mixture[c], source[c]) < CLEAN]
    gains = [gain(estimate[c], source[c], mixture[c]) for c in mixed]
    errors = differences(estimate, scene) - differences(source, scene)
    errors = errors[heard_in(source, scene)]
    return {
        "joint": gain(estimate, source, mixture),
        "channels": float(np.mean(gains)) if gains else None,
        "image": abs(difference(estimate) - difference(source)),
        "wander": float(np.std(errors)),
    }


def gain(estimate: np.ndarray, source: np.ndarray, mixture: np.ndarray) -> float:
    """Improvement of SI-SDR in dB over the mixture, one scale for all channels."""
    return si_sdr(estimate.ravel(), source.ravel()) - si_sdr(mixture.ravel(), source.ravel())


def difference(samples: np.ndarray) -> float:
    """How much louder the left of (2, t) is, in dB, at most MOST."""
    left, right = (level(channel) + 1e-9 for channel in samples)
    return float(np.clip(left - right, -MOST, MOST))


def under(samples: np.ndarray, mixture: np.ndarray) -> float:
    """Level against the mixture's in dB, at least -150."""
    return max(level(samples) - level(mixture), -150.0)


def frames(samples: np.ndarray, scene: Scene) -> np.ndarray:
    """(2, T) in frames (n, 2, size)."""
    size = round(FRAME * scene.sample_rate)
    whole = samples.shape[1] // size * size
    return samples[:, :whole].reshape(2, -1, size).swapaxes(0, 1)


def differences(samples: np.ndarray, scene: Scene) -> np.ndarray:
    """How much louder the left of (2, T) is in each frame, (n,), in dB."""
    return np.array([difference(frame) for frame in frames(samples, scene)])


def heard_in(samples: np.ndarray, scene: Scene) -> np.ndarray:
    """The frames in which (2, T) is less than 20 dB fainter than on the whole, bool (n,)."""
    return np.array([level(frame) > level(samples) - 20 for frame in frames(samples, scene)])
