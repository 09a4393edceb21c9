"""The network of SAM-Audio's judge: how well a candidate is what was asked for, in four scores.

Follows facebookresearch/sam-audio (sam_audio/model/judge.py), for waveforms of one length. There
the reference computes without masks too: it hands its padding mask over under a name that nothing
reads, so that in its batches of unequal lengths padding counts as sound. B batch, T samples,
N frames, L tokens, D width.
"""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from .config import Dtype, Stored, Width
from .dacvae import CodecEncoder, EncoderConfig
from .modernbert import ModernBert, ModernBertConfig
from .pe_transformer import PETransformer, PETransformerConfig


@dataclass(frozen=True)
class JudgeConfig(Stored):
    codec: EncoderConfig
    text: ModernBertConfig
    transformer: PETransformerConfig  # over the mixture, and over a candidate
    finetune_transformer: PETransformerConfig  # over both and the text
    bottleneck_dim: Width
    dtype: Dtype

    model_type = "sam_audio_judge"
    format = 2


class JudgeNetwork(nn.Module):
    def __init__(self, config: JudgeConfig):
        super().__init__()
        dim, bottleneck = config.transformer.dim, config.bottleneck_dim
        self.audio_codec = CodecEncoder(config.codec)
        self.data_proj = nn.Linear(config.codec.codebook_dim, dim)
        self.transformer = PETransformer(config.transformer)
        self.cat_audio_proj = nn.Linear(2 * dim, bottleneck)
        self.text_model = ModernBert(config.text)
        self.text_proj1 = nn.Linear(config.text.dim, dim, bias=False)
        self.text_proj2 = nn.Linear(dim, bottleneck)
        self.layer_norm = nn.LayerNorm(bottleneck)
        self.proj_audio_and_text = nn.Linear(2 * bottleneck, bottleneck)
        self.finetune_data_proj = nn.Linear(bottleneck, config.finetune_transformer.dim)
        self.finetune_transformer = PETransformer(config.finetune_transformer)
        self.head = nn.Linear(config.finetune_transformer.dim, 4, bias=False)
        self.mean = mx.zeros((4,))
        self.std = mx.ones((4,))

    def embed_text(self, tokens: mx.array, mask: mx.array) -> mx.array:
        """Token ids and mask (B, L) -> (B, bottleneck), of the first token."""
        text = self.text_proj1(self.text_model(tokens, mask)[:, 0])
        return self.layer_norm(self.text_proj2(text))

    def embed_audio(self, latents: mx.array) -> mx.array:
        """The codec's latents (B, N, C) -> (B, N, D)."""
        return self.transformer(self.data_proj(latents.astype(self.data_proj.weight.dtype)))

    def __call__(self, mixture: mx.array, candidates: mx.array, text: mx.array) -> mx.array:
        """Embedded mixture (1 or B, N, D), candidates (B, N, D) and text (1 or B, bottleneck)
        -> overall, recall, precision, faithfulness (B, 4) float32."""
        mixture = mx.broadcast_to(mixture, candidates.shape)
        audio = self.cat_audio_proj(mx.concatenate([candidates, mixture], axis=-1))
        text = mx.broadcast_to(text[:, None], audio.shape)
        both = self.proj_audio_and_text(mx.concatenate([audio, text], axis=-1))
        frames = self.head(self.finetune_transformer(self.finetune_data_proj(both)))
        return frames.astype(mx.float32).mean(axis=1) * self.std + self.mean
