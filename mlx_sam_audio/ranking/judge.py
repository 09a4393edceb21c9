"""How well does a separated sound match its description?

Follows facebookresearch/sam-audio (sam_audio/ranking/judge.py). T samples, N frames, D width.
"""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..calls import go_on, public
from ..errors import SAMAudioError, check_finite
from ..kinds import Samples, Text
from ..loading import load
from ..models import chunks
from ..models.judge import JudgeConfig, JudgeNetwork

NAME = "judge"
FRAMES = 60  # that the codec encodes at a time: about memory.WORK_BYTES


@dataclass(frozen=True)
class Scores:
    """What the judge was trained to give: higher is better."""

    overall: float
    recall: float  # is all of the described sound there?
    precision: float  # is nothing else there?
    faithfulness: float  # does it sound as it did in the mixture?


class Judge(load.Auxiliary):
    NAME, CONFIG, NETWORK = NAME, JudgeConfig, JudgeNetwork

    @property
    def sample_rate(self) -> int:
        return self.config.codec.sample_rate

    @public
    def __call__(self, mixture: Samples, candidates: Samples, description: Text) -> list[Scores]:
        """Judge k candidates for the described sound of one mixture.

        mixture (T,), candidates (k, T): samples at `sample_rate`. A candidate's scores do not
        depend on the others: the reference's batch gives the same where all have one length.
        Raises SAMAudioError.
        """
        mixture, candidates = (np.array(x, dtype=np.float32) for x in (mixture, candidates))
        self.check(mixture, candidates, description)
        text = self.network.embed_text(*self.tokenizer([description]))
        heard, scores = self.embed(mixture), []
        for candidate in candidates:
            go_on()
            row = self.network(heard, self.embed(candidate), text)[0]
            check_finite(row, "the judge's result")
            scores.append(Scores(*row.tolist()))
        return scores

    def embed(self, wave: np.ndarray) -> mx.array:
        """(T,) -> (1, N, D). The codec works in pieces that equal the whole."""
        encoded = chunks.encode(self.network.audio_codec, [wave[None]], FRAMES)
        pieces = [latents for latents, _ in encoded]
        return self.network.embed_audio(mx.concatenate(pieces, axis=1))

    def check(self, mixture: np.ndarray, candidates: np.ndarray, description: str) -> None:
        if not isinstance(description, str) or not description.strip():
            raise SAMAudioError("the description is empty: say which sound was wanted")
        if mixture.ndim != 1 or candidates.ndim != 2 or candidates.shape[1:] != mixture.shape:
            raise SAMAudioError(
                "the mixture must be (samples,) and the candidates (k, samples) of that length, "
                f"not {mixture.shape} and {candidates.shape}"
            )
        if not len(mixture) or not len(candidates):
            raise SAMAudioError("there is nothing to judge: no samples or no candidate")
        if not (np.isfinite(mixture).all() and np.isfinite(candidates).all()):
            raise SAMAudioError("the mixture or a candidate holds NaN or infinite samples")
        transformers = (self.config.transformer, self.config.finetune_transformer)
        limit = min(config.max_positions for config in transformers) - 1  # the class token
        limit *= self.config.codec.hop_length
        if len(mixture) > limit:
            raise SAMAudioError(
                f"the mixture lasts {len(mixture) / self.sample_rate:.0f} s, the judge hears at "
                f"most {limit / self.sample_rate:.0f} s: judge a part of it"
            )
