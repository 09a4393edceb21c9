"""The T5 text encoder (relu, tied relative position bias).

Follows transformers `models/t5/modeling_t5.py`, encoder only. B batch, L tokens, D width, H heads.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .config import Epsilon, Heads, Layers, Positions, Tokens, Vocabulary, Width
from .layers import join_heads, split_heads
from .schema import Wrong


@dataclass(frozen=True)
class TextConfig:
    vocab_size: Vocabulary
    d_model: Width
    d_kv: Width
    d_ff: Width
    num_layers: Layers
    num_heads: Heads
    num_buckets: Annotated[int, 4, 2**16]
    max_distance: Positions
    eps: Epsilon
    max_tokens: Tokens

    def wrong(self) -> Wrong:
        return {
            "the heads are too wide": self.num_heads * self.d_kv > 2**16,
            "num_buckets is no multiple of 4": self.num_buckets % 4,
            "max_distance is too short for num_buckets": self.max_distance <= self.num_buckets // 4,
        }


class SelfAttention(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        inner = config.num_heads * config.d_kv
        self.q = nn.Linear(config.d_model, inner, bias=False)
        self.k = nn.Linear(config.d_model, inner, bias=False)
        self.v = nn.Linear(config.d_model, inner, bias=False)
        self.o = nn.Linear(inner, config.d_model, bias=False)
        self._heads = config.num_heads

    def __call__(self, x: mx.array, bias: mx.array) -> mx.array:
        q, k, v = (split_heads(layer(x), self._heads) for layer in (self.q, self.k, self.v))
        # T5 does not scale the scores: its initialisation absorbs the square root
        y = mx.fast.scaled_dot_product_attention(q, k, v, scale=1.0, mask=bias.astype(q.dtype))
        return self.o(join_heads(y))


class Block(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.d_model, config.eps)
        self.attention = SelfAttention(config)
        self.ffn_norm = nn.RMSNorm(config.d_model, config.eps)
        self.wi = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)

    def __call__(self, x: mx.array, bias: mx.array) -> mx.array:
        x = x + self.attention(self.attention_norm(x), bias)
        return x + self.wo(nn.relu(self.wi(self.ffn_norm(x))))


class T5Encoder(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.relative_attention_bias = nn.Embedding(config.num_buckets, config.num_heads)
        self.blocks = [Block(config) for _ in range(config.num_layers)]
        self.final_norm = nn.RMSNorm(config.d_model, config.eps)
        self._buckets = (config.num_buckets, config.max_distance)

    def __call__(self, tokens: mx.array, mask: mx.array) -> mx.array:
        """Token ids (B, L), mask (B, L) -> features (B, L, D)."""
        bias = self.relative_attention_bias(relative_buckets(tokens.shape[1], *self._buckets))
        bias = bias.transpose(2, 0, 1)[None]  # (1, H, L, L)
        bias = mx.where(mask[:, None, None, :], bias, mx.finfo(bias.dtype).min)
        x = self.shared(tokens)
        dtype, x = x.dtype, x.astype(mx.float32)  # float16 is too narrow for T5's sums
        for block in self.blocks:
            x = block(x, bias)
        return self.final_norm(x).astype(dtype)


def relative_buckets(length: int, buckets: int, max_distance: int) -> mx.array:
    """Bucket of each (query, key) distance: exact when near, logarithmic beyond. (L, L) int32."""
    position = np.arange(length)
    distance = position[None, :] - position[:, None]
    half = buckets // 2
    exact = half // 2
    far = np.maximum(np.abs(distance), 1).astype(np.float32) / exact
    far = exact + (np.log(far) / math.log(max_distance / exact) * (half - exact)).astype(np.int32)
    near = np.where(np.abs(distance) < exact, np.abs(distance), np.minimum(far, half - 1))
    return mx.array((near + half * (distance > 0)).astype(np.int32))
