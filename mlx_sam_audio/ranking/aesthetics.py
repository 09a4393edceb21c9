"""audiobox-aesthetics: how good does a sound sound, whatever it was meant to be?

Follows facebookresearch/audiobox-aesthetics (infer.py). K clips, T samples.
"""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..calls import go_on, public
from ..errors import SAMAudioError, check_finite
from ..kinds import Hertz, Samples
from ..loading import load
from ..models.aesthetics import CLIP, AestheticsConfig, AestheticsNetwork
from .fbank import SAMPLE_RATE, resample

NAME = "aesthetics"


@dataclass(frozen=True)
class Scores:
    """About 1 to 10. More is better, but for complexity: what is separated gets simpler."""

    enjoyment: float  # CE: of the content
    usefulness: float  # CU: of the content, to somebody who makes something of it
    complexity: float  # PC: of the production
    quality: float  # PQ: of the production


class Aesthetics(load.Auxiliary):
    NAME, CONFIG, NETWORK = NAME, AestheticsConfig, AestheticsNetwork

    @property
    def sample_rate(self) -> int:
        return SAMPLE_RATE

    @public
    def __call__(self, clips: Samples, sample_rate: Hertz | None = None) -> list[Scores]:
        """Scores of each of the clips (k, T), which do not depend on the others.

        sample_rate: of the clips, if not the model's. What lasts longer than 10 s is heard in
        windows of 10 s, and a window counts by how much of it is sound. Raises SAMAudioError.
        """
        clips = np.array(clips, dtype=np.float32)
        if clips.ndim != 2 or not clips.size:
            raise SAMAudioError(f"clips must be (k, samples), not {clips.shape}")
        if not np.isfinite(clips).all():
            raise SAMAudioError("a clip holds NaN or infinite samples")
        clips = resample(clips, sample_rate or SAMPLE_RATE)
        if not clips.size:
            raise SAMAudioError("a clip is shorter than a sample of the model")
        return [self.score(clip) for clip in clips]

    def score(self, clip: np.ndarray) -> Scores:
        """One window at a time, so that memory does not grow with the clip (T,)."""
        scores, weights = [], []
        for wave, mask in windows(clip):
            go_on()
            scores.append(np.array(self.network(mx.array(wave)[None], mx.array(mask)[None])[0]))
            weights.append(mask.mean())
        mean = np.average(scores, axis=0, weights=weights)
        check_finite(mean, "the result of audiobox-aesthetics")
        return Scores(*mean.tolist())


def windows(clip: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(T,) -> windows (CLIP,) of it, the last padded, and masks of what is no padding."""
    pieces = [clip[start : start + CLIP] for start in range(0, len(clip), CLIP)]
    return [(np.pad(x, (0, CLIP - len(x))), np.arange(CLIP) < len(x)) for x in pieces]
