"""SAM-Audio's networks together: from latents, text and spans to the velocity of the latents.

Follows facebookresearch/sam-audio (sam_audio/model/model.py, align.py). Maths only: nothing here
evaluates, reads files or draws random numbers. B batch, N latent frames (25 a second in Meta's
models), L text tokens, C latent channels, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from .config import Dtype, Stored, Width, Word
from .dacvae import DACVAE, CodecConfig
from .dit import DiT, Moment, TransformerConfig, sinusoidal
from .quantise import QuantisationConfig
from .schema import Wrong
from .t5 import T5Encoder, TextConfig
from .vision import VisionConfig


@dataclass(frozen=True)
class VocabularyConfig:
    """What a model trained on few sounds understands."""

    sounds: Annotated[tuple[Word, ...], 0, 2**12]  # for people
    words: Annotated[tuple[Word, ...], 0, 2**16]  # lower case; a prompt with another is refused


ALIGNMENT, VISION, WATERMARK = "video alignment", "vision encoder", "watermark"
Group = Literal["video alignment", "vision encoder", "watermark"]
MISSING = {
    ALIGNMENT: "the video alignment, which adds a constant to all that the transformer hears even "
    "where there is no video",
    VISION: "the vision encoder, without which it takes no video",
    WATERMARK: "the watermark, with which the codec marks what it decodes",
}


@dataclass(frozen=True)
class ModelConfig(Stored):
    codec: CodecConfig
    text: TextConfig
    transformer: TransformerConfig
    vision: VisionConfig | None
    video_constant: bool  # without vision: what the alignment makes of an absent video is there
    vocabulary: VocabularyConfig | None  # None: any words
    num_anchors: Annotated[int, 3, 2**10]  # "+", "-" and padding at least
    anchor_dim: Width
    dtype: Dtype  # of all that is not quantised
    quantisation: QuantisationConfig | None
    missing: Annotated[tuple[Group, ...], 0, 3]  # groups of tensors that the original has

    model_type = "sam_audio"
    format, older = 4, (3,)

    def wrong(self) -> Wrong:
        stems = 2 * self.codec.codebook_dim
        given = {
            VISION: self.vision is not None,
            ALIGNMENT: self.vision is not None or self.video_constant,
            WATERMARK: self.codec.watermark,
        }
        return {
            "out_channels are not two stems": self.transformer.out_channels != stems,
            "video_constant goes without vision": self.video_constant and self.vision is not None,
            "missing names what is there": any(given[group] for group in self.missing),
        }

    @staticmethod
    def upgraded(values: dict, version: object) -> dict:
        """Before format 4 nothing could be missing."""
        new = {"video_constant": False, "missing": []}
        return {**new, **values} if version == 3 and not new.keys() & values.keys() else values

    @property
    def lacks(self) -> str:
        """What is missing, in words, if anything."""
        return ", and ".join(MISSING[group] for group in self.missing)

    @property
    def lacks_shortly(self) -> str:
        """The same in few words, and what can be done."""
        return f"lacks Meta's {' and '.join(self.missing)}; {self.remedy}"

    @property
    def remedy(self) -> str:
        """How what is missing can be had."""
        options = {
            "--watermark-from" if one == WATERMARK else "--video-from" for one in self.missing
        }
        return f"`python -m convert` fills it in with {' and '.join(sorted(options, reverse=True))}"


class Condition(NamedTuple):
    """All that stays fixed while the ODE is solved."""

    static: mx.array  # (B, N, D) what mixture, video and spans add to every frame
    text: mx.array  # (B, L, D)
    text_mask: mx.array  # (B, L), True on tokens
    pad_mask: mx.array | None  # (B, N), True on content; None when nothing is padded


class InputProjection(nn.Module):
    """The reference's `proj` over (noisy latents, zeros, mixture latents twice), cut into parts."""

    def __init__(self, channels: int, dim: int):
        super().__init__()
        self.noisy = nn.Linear(2 * channels, dim, bias=False)
        self.mixture = nn.Linear(channels, dim)


class AlignModalities(nn.Module):
    """Adds one video vector per frame. Absent video is a vector of zeros, not nothing."""

    def __init__(self, inputs: int, dim: int):
        super().__init__()
        self.conv = nn.Linear(inputs, dim)
        self.layer_norm = nn.LayerNorm(dim)
        self.gate = mx.zeros((1,))

    def __call__(self, features: mx.array | None) -> mx.array:
        if features is None:
            features = mx.zeros((1, 1, self.conv.weight.shape[1]))
        features = features.astype(self.conv.weight.dtype)
        return mx.tanh(self.gate) * self.layer_norm(self.conv(features))


class AbsentVideo(nn.Module):
    """What `AlignModalities` adds to every frame where there is no video, for a model that cannot
    see any."""

    def __init__(self, dim: int):
        super().__init__()
        self.constant = mx.zeros((dim,))

    def __call__(self, features: None) -> mx.array:
        return self.constant


class EmbedAnchors(nn.Module):
    """Adds the embedding of a frame's anchor: 0 null, 1 "+", 2 "-", 3 padding."""

    def __init__(self, num_anchors: int, inputs: int, dim: int):
        super().__init__()
        self.embed = nn.Embedding(num_anchors + 1, inputs)
        self.proj = nn.Linear(inputs, dim, bias=False)
        self.gate = mx.zeros((1,))

    def __call__(self, anchors: mx.array) -> mx.array:
        return mx.tanh(self.gate) * self.proj(self.embed(anchors))


class Network(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        dim = config.transformer.dim
        self.audio_codec = DACVAE(config.codec)
        self.text_encoder = T5Encoder(config.text)
        self.transformer = DiT(config.transformer)
        self.proj = InputProjection(config.codec.codebook_dim, dim)
        self.memory_proj = nn.Linear(config.text.d_model, dim)
        self.embed_anchors = EmbedAnchors(config.num_anchors, config.anchor_dim, dim)
        self.align_masked_video = None
        if config.vision:
            self.align_masked_video = AlignModalities(config.vision.dim, dim)
        elif config.video_constant:
            self.align_masked_video = AbsentVideo(dim)

    def condition(
        self,
        latents: mx.array,  # (B, N, C) of the mixture
        text: mx.array,  # (B, L, d_model)
        text_mask: mx.array,  # (B, L)
        anchors: mx.array,  # (B, N)
        pad_mask: mx.array | None = None,  # (B, N)
        video: mx.array | None = None,  # (B, N, vision dim)
    ) -> Condition:
        dtype = self.memory_proj.weight.dtype
        static = self.proj.mixture(latents.astype(dtype)) + self.embed_anchors(anchors)
        if self.align_masked_video is not None:
            static = static + self.align_masked_video(video)
        return Condition(static, self.memory_proj(text), text_mask, pad_mask)

    def moment(self, t: mx.array, text: mx.array) -> Moment:
        """What time t (B,) and text (B, L, D) alone decide of a velocity."""
        time = sinusoidal(t, text.shape[-1])[:, None].astype(text.dtype)
        return self.transformer.moment(t, text + time)

    def moments(self, times: Sequence[float], text: mx.array) -> list[Moment]:
        """The moments of several times, made at once; text (B, L, D)."""
        batch = text.shape[0]
        t = mx.repeat(mx.array(times, dtype=mx.float32), batch)
        every = self.moment(t, mx.tile(text, (len(times), 1, 1)))
        return [
            Moment(*(part[i * batch : (i + 1) * batch] for part in every))
            for i in range(len(times))
        ]

    def velocity(self, x: mx.array, moment: Moment, condition: Condition) -> mx.array:
        """dx/dt of the state x (B, N, 2C) at a moment; float32 in, float32 out."""
        h = self.proj.noisy(x.astype(condition.static.dtype)) + condition.static
        v = self.transformer(h, moment, condition.pad_mask, condition.text_mask)
        return v.astype(mx.float32)
