"""CLAP: how near is a sound to a description?

Follows LAION-AI/CLAP as sam-audio's ranker uses it (sam_audio/ranking/clap.py). T samples.
"""

import mlx.core as mx
import numpy as np

from ..calls import public
from ..errors import SAMAudioError, check_finite
from ..kinds import Hertz, Samples, Text
from ..loading import load
from ..media import audio
from ..models.clap import ClapConfig, ClapNetwork

NAME = "clap"


class CLAP(load.Auxiliary):
    NAME, CONFIG, NETWORK = NAME, ClapConfig, ClapNetwork

    @property
    def sample_rate(self) -> int:
        return self.config.audio.sample_rate

    @public
    def __call__(
        self, candidates: Samples, description: Text, sample_rate: Hertz | None = None
    ) -> np.ndarray:
        """Cosine similarities (k,) float32 of candidates (k, T) to a description.

        sample_rate: of the candidates, if not the model's. Of what lasts longer than one clip
        (10 s), the mean over clips that cover it evenly, where the reference takes one at random.
        Raises SAMAudioError.
        """
        candidates = np.array(candidates, dtype=np.float32)
        if not isinstance(description, str) or not description.strip():
            raise SAMAudioError("the description is empty: say which sound was wanted")
        if candidates.ndim != 2 or not candidates.size:
            raise SAMAudioError(f"candidates must be (k, samples), not {candidates.shape}")
        if not np.isfinite(candidates).all():
            raise SAMAudioError("a candidate holds NaN or infinite samples")
        candidates = audio.resample(candidates, sample_rate or self.sample_rate, self.sample_rate)
        text = self.network.embed_text(*self.tokenizer([description]))[0]
        # one clip at a time: memory does not grow with candidates or length
        scores = [
            [(self.network.embed_audio(clip[None])[0] @ text).item() for clip in clips]
            for clips in map(mx.array, self.clips(candidates))
        ]
        check_finite(np.array(scores), "CLAP's result")
        return np.mean(scores, axis=1, dtype=np.float64).astype(np.float32)

    def clips(self, waves: np.ndarray) -> np.ndarray:
        """(k, T) -> (k, clips, clip_samples), in the 16 bits that the network was trained on.

        A short wave is repeated as often as it fits whole; zeros follow.
        """
        waves = np.trunc(waves.clip(-1, 1) * np.float32(32767)) / np.float32(32767)
        size, length = self.config.audio.clip_samples, waves.shape[1]
        if length < size:
            waves = np.tile(waves, size // length)
            return np.pad(waves, [(0, 0), (0, size - waves.shape[1])])[:, None]
        starts = np.linspace(0, length - size, -(-length // size)).astype(int)
        return np.stack([waves[:, start : start + size] for start in starts], axis=1)
