"""Predicted spans: where a described sound occurs, from the mixture's latents.

Follows facebookresearch/sam-audio (SAMAudio.predict_spans) and perception_models. B batch,
N latent frames, C channels.
"""

import math
from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from .calls import go_on, public
from .engine.windows import Windows
from .errors import SAMAudioError, check_finite
from .kinds import Latents, Lengths, Number, Seconds, Texts, as_array
from .loading import load
from .models.pe_a_frame import PEAudioFrame, SpanPredictorConfig
from .prompts import Span

NAME = "pe-a-frame-large"


class Predicted(tuple):
    """Predicted spans, a tuple of `Span`, and how probably each latent frame (N,) holds the sound.

    frame_rate: latent frames a second.
    """

    def __new__(cls, spans=(), probabilities: np.ndarray = (), frame_rate: float = 1.0):
        self = super().__new__(cls, spans)
        self.probabilities, self.frame_rate = np.asarray(probabilities), frame_rate
        return self

    def probability(self, start: float, end: float) -> float:
        """The highest between two times in seconds."""
        first, last = (round(time * self.frame_rate, 6) for time in (start, end))
        return float(self.probabilities[int(first) : math.ceil(last)].max(initial=0.0))


class SpanPredictor(load.Auxiliary):
    NAME, CONFIG, NETWORK = NAME, SpanPredictorConfig, PEAudioFrame

    @public
    def __call__(
        self,
        latents: Latents,
        descriptions: Texts,
        *,
        threshold: Number = 0.3,
        smallest: Seconds = 0.0,
        gap: Seconds = 0.0,
        samples: Lengths | None = None,
        window: Seconds | None = None,
        overlap: Seconds = 3.0,
    ) -> list[Predicted]:
        """The "+" spans of each item: where its probability is above `threshold`.

        latents: (B, N, C) or (N, C), of the codec. gap: pauses of up to so many seconds between
        two spans are filled; smallest: spans shorter than so many seconds are then dropped.
        samples: the length of each item's audio, which no span exceeds; its frames beyond are
        padding. window, overlap: as in `probabilities`. Raises SAMAudioError.
        """
        for name, value in (("threshold", threshold), ("smallest", smallest), ("gap", gap)):
            most = 1 if name == "threshold" else math.inf
            if not 0 <= value <= most or value == math.inf:
                limit = " to 1" if name == "threshold" else " or more"
                raise SAMAudioError(f"{name} must be 0{limit}, not {value}")
        options = dict(samples=samples, window=window, overlap=overlap)
        rows = np.array(self.probabilities(latents, descriptions, **options))
        rate, hop = self.config.sample_rate, self.config.hop_length
        smallest, gap = (round(value * rate / hop, 6) for value in (smallest, gap))  # frames
        samples = [rows.shape[1] * hop] * len(rows) if samples is None else samples
        spans = []
        for row, length in zip(rows, samples, strict=True):
            row = row[: -(-length // hop)]
            found = to_spans(runs(row > threshold, smallest, gap), length, rate, hop)
            spans.append(Predicted(found, row, rate / hop))
        return spans

    @public
    def probabilities(
        self,
        latents: Latents,
        descriptions: Texts,
        *,
        samples: Lengths | None = None,
        window: Seconds | None = None,
        overlap: Seconds = 3.0,
    ) -> mx.array:
        """How probably each frame holds its item's sound, (B, N) float32.

        What does not fit in `window` seconds (at most, and if not given, all that the model can
        see at once: 400 s for Meta's) is seen in windows that share `overlap` seconds, over which
        their probabilities are cross-faded.
        """
        latents = as_array(latents)
        latents = latents[None] if latents.ndim == 2 else latents
        descriptions = [descriptions] if isinstance(descriptions, str) else list(descriptions)
        self.check(latents, descriptions, samples)
        frames, hop = latents.shape[1], self.config.hop_length
        size, shared = self.window_frames(window, overlap)
        mask = None
        if samples is not None and min(samples) <= (frames - 1) * hop:
            mask = mx.arange(frames) * hop < mx.array(samples)[:, None]
        text = self.network.embed_text(*self.tokenizer(descriptions))
        windows = Windows.over(frames, size, shared)
        faded = np.zeros(latents.shape[:2], np.float32)
        for start, weights in zip(windows.starts, windows.weights(), strict=True):
            go_on()
            cut = slice(start, start + windows.size)
            seen = None if mask is None else mask[:, cut]
            seen = mx.sigmoid(self.network(latents[:, cut], text, seen))
            faded[:, cut] += np.array(seen) * weights
        check_finite(faded, "the span predictor's result")
        return mx.array(faded)

    def check(self, latents, descriptions: list[str], samples: Sequence[int] | None) -> None:
        channels, hop = self.config.channels, self.config.hop_length
        if latents.ndim != 3 or latents.shape[1] == 0 or latents.shape[2] != channels:
            raise SAMAudioError(
                f"latents must be (items, frames, {channels}), not {latents.shape}: are they of "
                "this predictor's codec?"
            )
        if len(descriptions) != len(latents):
            raise SAMAudioError(
                f"{len(latents)} items need as many descriptions, not {len(descriptions)}"
            )
        if not all(isinstance(text, str) and text.strip() for text in descriptions):
            raise SAMAudioError("spans can only be predicted for a description: it is empty")
        limit = latents.shape[1] * hop
        if samples is not None and (
            len(samples) != len(latents) or not all(0 < length <= limit for length in samples)
        ):
            raise SAMAudioError(
                f"samples must be {len(latents)} lengths of 1 to {limit}, not {list(samples)}"
            )

    def window_frames(self, window: float | None, overlap: float) -> tuple[int, int]:
        """Checked lengths of window and overlap in frames."""
        rate = self.config.sample_rate / self.config.hop_length
        longest = (self.config.transformer.max_positions - 1) / rate  # one is the class token's
        window = longest if window is None else window
        if not 0 <= overlap < window <= longest:
            raise SAMAudioError(
                f"the window ({window:g} s) must be longer than the overlap ({overlap:g} s) and "
                f"last at most {longest:g} s"
            )
        size = max(round(window * rate), 1)
        return size, min(round(overlap * rate), size - 1)


def runs(active: np.ndarray, smallest: float = 0, gap: float = 0) -> np.ndarray:
    """First frames and ends (exclusive), (spans, 2), of where `active` (N,) is true.

    Pauses of up to `gap` frames are filled, then spans of less than `smallest` are dropped.
    """
    edges = np.flatnonzero(np.diff(np.pad(active.astype(np.int8), 1)))
    pauses = edges[1:-1].reshape(-1, 2)
    pauses = pauses[np.diff(pauses)[:, 0] > gap]
    spans = np.concatenate([edges[:1], pauses.ravel(), edges[-1:]]).reshape(-1, 2)
    return spans[np.diff(spans)[:, 0] >= smallest]


def to_spans(frames: np.ndarray, samples: int, sample_rate: int, hop: int) -> tuple[Span, ...]:
    """Spans of exactly these frames (spans, 2), in audio of that many samples."""
    times = np.minimum(seconds(frames, sample_rate, hop), samples / sample_rate)
    return tuple(Span("+", start, end) for start, end in times.tolist())


def seconds(frames: np.ndarray, sample_rate: int, hop: int) -> np.ndarray:
    """Times that `prompts.anchors` rounds to these frames. The reference's own, in float32, come
    back as the next frame for half of all frames."""
    times = frames * hop / sample_rate
    late = np.ceil(times * sample_rate / hop) > frames
    return np.where(late, np.nextafter(times, 0), times)


def to_json(spans: Sequence[Span]) -> list[list]:
    """[sign, start, end] of each, for a JSON file; so the reference writes its anchors."""
    return [[span.sign, span.start, span.end] for span in spans]


def to_labels(spans: Sequence[Span], label: str) -> str:
    """Lines of an Audacity label track: start, end and label, separated by tabs."""
    text = " ".join(label.split())
    return "".join(f"{span.start:.6f}\t{span.end:.6f}\t{text}\n" for span in spans)
