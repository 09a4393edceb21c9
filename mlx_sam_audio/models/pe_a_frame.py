"""PE-A-Frame, the network of the span predictor: how much each frame sounds like a description.

Follows facebookresearch/perception_models (core/audio_visual_encoder/pe.py, PEAudioFrame), from
the latents on: the codec's encoder is SAM-Audio's own. B batch, N frames, L tokens, C channels,
D width of what a head is given, E width of what it returns.
"""

from dataclasses import dataclass
from typing import Annotated

import mlx.core as mx
import mlx.nn as nn

from .config import MOST_SAMPLES, Dtype, SampleRate, Stored, Width
from .modernbert import ModernBert, ModernBertConfig
from .pe_transformer import PETransformer, PETransformerConfig


@dataclass(frozen=True)
class SpanPredictorConfig(Stored):
    sample_rate: SampleRate
    hop_length: Annotated[int, 1, MOST_SAMPLES]  # samples per frame
    channels: Width  # of the latents
    transformer: PETransformerConfig
    text: ModernBertConfig
    output_dim: Width  # of the space in which frames meet the text
    dtype: Dtype

    model_type = "pe_a_frame"
    format = 2


class ContrastiveHead(nn.Module):
    """(..., D) -> (..., E), the space in which frames and descriptions are compared."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.layer_norm = nn.LayerNorm(inputs, 1e-6)
        self.proj = nn.Linear(inputs, outputs, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.proj(self.layer_norm(x))


class PEAudioFrame(nn.Module):
    def __init__(self, config: SpanPredictorConfig):
        super().__init__()
        dim = config.transformer.dim
        self.data_proj = nn.Linear(config.channels, dim)
        self.audio_transformer = PETransformer(config.transformer)
        self.audio_head = ContrastiveHead(dim, config.output_dim)
        self.text_model = ModernBert(config.text)
        self.text_head = ContrastiveHead(config.text.dim, config.output_dim)
        self.logit_scale = mx.ones((1,))
        self.logit_bias = mx.zeros((1,))

    def embed_text(self, tokens: mx.array, mask: mx.array) -> mx.array:
        """Token ids and mask (B, L), True on tokens -> (B, E), of the first token."""
        return self.text_head(self.text_model(tokens, mask)[:, 0])

    def embed_audio(self, latents: mx.array, mask: mx.array | None = None) -> mx.array:
        """Latents (B, N, C), mask (B, N), True on content -> (B, N, E)."""
        latents = latents.astype(self.data_proj.weight.dtype)
        return self.audio_head(self.audio_transformer(self.data_proj(latents), mask))

    def __call__(self, latents: mx.array, text: mx.array, mask: mx.array | None = None):
        """Latents (B, N, C), `embed_text`'s (B, E), mask (B, N) -> logits (B, N) float32."""
        audio = self.embed_audio(latents, mask).astype(mx.float32)
        product = (audio @ text.astype(mx.float32)[..., None])[..., 0]
        # the reference neither normalises the vectors nor raises e to the scale
        return product * self.logit_scale + self.logit_bias
