"""The diffusion transformer: the velocity field over latents.

Follows facebookresearch/sam-audio (sam_audio/model/transformer.py, patcher.py, rope.py). The
converter makes heads contiguous, fuses q, k, v and w1, w3, and sorts each head's channels so that
rotary pairs are its two halves. B batch, N latent frames, L text tokens, D width, H heads.

The residual stream and all products run in the dtype of the weights; time stays float32 until it
meets them.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from .config import Epsilon, Heads, Layers, Positions, Width, heads_do_not_fit
from .conv import Conv1d
from .layers import RMSNorm, attend, rotary_table, rotate, silu, split_heads, swiglu
from .schema import Wrong


@dataclass(frozen=True)
class TransformerConfig:
    dim: Width
    n_heads: Heads
    n_layers: Layers
    ffn_dim: Width
    context_dim: Width
    frequency_dim: Width
    norm_eps: Epsilon
    max_positions: Positions
    out_channels: Width

    def wrong(self) -> Wrong:
        return {
            **heads_do_not_fit(self.dim, self.n_heads, 2),
            "context_dim is not dim": self.context_dim != self.dim,
            "frequency_dim is odd": self.frequency_dim % 2,
        }


class Moment(NamedTuple):
    """All that depends on time and text alone, so that it can be made before the solver runs."""

    modulation: mx.array  # (B, 6, D)
    final: mx.array  # (B, D)
    keys: mx.array  # (B, layers, H, L, D / H)
    values: mx.array  # (B, layers, H, L, D / H)


def sinusoidal(t: mx.array, width: int) -> mx.array:
    """cos then sin of t (B,) at `width` / 2 frequencies from 1 down to 1e-4. (B, width) float32."""
    half = width // 2
    frequencies = mx.exp(-math.log(10_000) * mx.arange(half, dtype=mx.float32) / half)
    angles = t.astype(mx.float32)[:, None] * frequencies
    return mx.concatenate([mx.cos(angles), mx.sin(angles)], axis=-1)


@partial(mx.compile, shapeless=True)
def modulate(x: mx.array, shift: mx.array, scale: mx.array) -> mx.array:
    return x * (1 + scale) + shift


class SwiGLU(nn.Module):
    """w2(silu(w1 x) * w3 x), with w1 and w3 in one product."""

    def __init__(self, inputs: int, hidden: int, outputs: int):
        super().__init__()
        self.w13 = nn.Linear(inputs, 2 * hidden, bias=False)
        self.w2 = nn.Linear(hidden, outputs, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.w2(swiglu(self.w13(x)))


class SelfAttention(nn.Module):
    def __init__(self, config: TransformerConfig):
        super().__init__()
        head_dim = config.dim // config.n_heads
        self.wqkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.wo = nn.Linear(config.dim, config.dim, bias=False)
        self.q_norm = RMSNorm(head_dim, config.norm_eps)
        self.k_norm = RMSNorm(head_dim, config.norm_eps)
        self._shape = (config.n_heads, head_dim)

    def __call__(self, x: mx.array, rotary, mask: mx.array | None) -> mx.array:
        qkv = self.wqkv(x).reshape(*x.shape[:2], 3, *self._shape)
        q, k, v = (qkv[:, :, i].swapaxes(1, 2) for i in range(3))
        q, k = rotate(self.q_norm(q), *rotary), rotate(self.k_norm(k), *rotary)
        return self.wo(attend(q, k, v, mask))


class CrossAttention(nn.Module):
    """Frames attend to text tokens; keys and values depend on text and time, not on the frames."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        head_dim = config.dim // config.n_heads
        self.wq = nn.Linear(config.dim, config.dim, bias=False)
        self.wkv = nn.Linear(config.dim, 2 * config.dim, bias=False)
        self.wo = nn.Linear(config.dim, config.dim, bias=False)
        self.q_norm = RMSNorm(head_dim, config.norm_eps)
        self.k_norm = RMSNorm(head_dim, config.norm_eps)
        self._shape = (config.n_heads, head_dim)

    def keys_values(self, memory: mx.array) -> tuple[mx.array, mx.array]:
        """memory (B, L, D) -> keys and values, each (B, H, L, D / H)."""
        kv = self.wkv(memory).reshape(*memory.shape[:2], 2, *self._shape)
        k, v = (kv[:, :, i].swapaxes(1, 2) for i in range(2))
        return self.k_norm(k), v

    def __call__(self, x: mx.array, keys: mx.array, values: mx.array, mask) -> mx.array:
        q = self.q_norm(split_heads(self.wq(x), self._shape[0]))
        return self.wo(attend(q, keys, values, mask))


class Block(nn.Module):
    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = SelfAttention(config)
        self.cross_attention = CrossAttention(config)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.feed_forward = SwiGLU(config.dim, config.ffn_dim, config.dim)
        self.scale_shift_table = mx.random.normal((6, config.dim)) * config.dim**-0.5

    def __call__(self, x, modulation, keys, values, rotary, pad_mask, text_mask) -> mx.array:
        """x (B, N, D); modulation (B, 6, D): shift, scale, gate of attention, then of the FFN."""
        table = (self.scale_shift_table + modulation).astype(x.dtype)
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = mx.split(table, 6, axis=1)
        h = modulate(self.attention_norm(x), shift, scale)
        x = x + gate * self.attention(h, rotary, pad_mask)
        # the reference has neither norm nor gate here
        x = x + self.cross_attention(x, keys, values, text_mask)
        return x + ffn_gate * self.feed_forward(modulate(self.ffn_norm(x), ffn_shift, ffn_scale))


class ConvBlock(nn.Module):
    """GroupNorm of one group (statistics over time and channels, padding included), SiLU, conv."""

    def __init__(self, dim: int):
        super().__init__()
        self.groupnorm = nn.LayerNorm(dim)
        self.project = Conv1d(dim, dim, 3)

    def __call__(self, x: mx.array) -> mx.array:
        flat = mx.fast.layer_norm(x.reshape(x.shape[0], -1), None, None, 1e-5)
        x = flat.reshape(x.shape) * self.groupnorm.weight + self.groupnorm.bias
        return self.project(silu(x))


class Patcher(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.block1 = ConvBlock(dim)
        self.block2 = ConvBlock(dim)

    def __call__(self, x: mx.array) -> mx.array:
        return x + self.block2(self.block1(x))


class DiT(nn.Module):
    def __init__(self, config: TransformerConfig):
        super().__init__()
        dim = config.dim
        self.x_embedder = Patcher(dim)
        self.y_embedder = SwiGLU(config.context_dim, dim, dim)
        self.t_embedder = SwiGLU(config.frequency_dim, dim, dim)
        self.t_block = nn.Linear(dim, 6 * dim)
        self.layers = [Block(config) for _ in range(config.n_layers)]
        self.norm = RMSNorm(dim, config.norm_eps)
        self.output = nn.Linear(dim, config.out_channels, bias=False)
        self.final_layer_scale_shift_table = mx.random.normal((2, dim)) * dim**-0.5
        self._frequency_dim = config.frequency_dim
        self._rotary = (dim // config.n_heads, max(10_000, 2 * config.max_positions))

    def moment(self, t: mx.array, memory: mx.array) -> Moment:
        """t (B,) in [0, 1], memory (B, L, D)."""
        t = self.t_embedder(sinusoidal(t, self._frequency_dim).astype(memory.dtype))  # (B, D)
        modulation = self.t_block(silu(t)).reshape(t.shape[0], 6, -1)
        memory = self.y_embedder(memory)
        pairs = [layer.cross_attention.keys_values(memory) for layer in self.layers]
        keys, values = (mx.stack(parts, axis=1) for parts in zip(*pairs, strict=True))
        return Moment(modulation, t, keys, values)

    def __call__(self, x, moment: Moment, pad_mask=None, text_mask=None) -> mx.array:
        """x (B, N, D), masks (B, N) and (B, L) True on content -> (B, N, 2C).

        The moment and the text's mask may be of batch 1, for items of one prompt.
        """
        rotary = rotary_table(x.shape[1], *self._rotary)
        keys, values, text_mask = (
            None if part is None else mx.broadcast_to(part, (len(x), *part.shape[1:]))
            for part in (moment.keys, moment.values, text_mask)
        )
        x = self.x_embedder(x)
        for i, layer in enumerate(self.layers):
            x = layer(x, moment.modulation, keys[:, i], values[:, i], rotary, pad_mask, text_mask)
        final = (self.final_layer_scale_shift_table + moment.final[:, None]).astype(x.dtype)
        shift, scale = mx.split(final, 2, axis=1)
        return self.output(modulate(self.norm(x), shift, scale))
