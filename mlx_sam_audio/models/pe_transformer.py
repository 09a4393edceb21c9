"""The audio transformer of Meta's Perception Encoder, in the span predictor and in the judge.

Follows facebookresearch/perception_models (core/audio_visual_encoder/transformer.py, patcher.py).
A class token goes before the frames and is not returned. Heads are contiguous and rotary pairs
are neighbouring channels, as in the checkpoint: not the layout of `dit`. B batch, N frames,
D width, H heads.
"""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from .config import Epsilon, Heads, Layers, Positions, Width, heads_do_not_fit
from .conv import Conv1d
from .layers import attend, rotary_table, split_heads
from .schema import Wrong


@dataclass(frozen=True)
class PETransformerConfig:
    dim: Width
    n_heads: Heads
    n_layers: Layers
    ffn_dim: Width
    norm_eps: Epsilon
    max_positions: Positions  # the class token's included

    def wrong(self) -> Wrong:
        return heads_do_not_fit(self.dim, self.n_heads, 2)


@mx.compile
def rotate_pairs(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """Turn the channels (2i, 2i + 1) of x (B, H, N, D / H) by the angles of their frame."""
    pairs = x.astype(mx.float32).reshape(*x.shape[:-1], -1, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    turned = mx.stack([a * cos - b * sin, a * sin + b * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)


class MaskedNorm(nn.Module):
    """GroupNorm of one group: statistics over frames and channels, of content alone.

    What is padding comes out as zeros.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.weight = mx.ones((dim,))
        self.bias = mx.zeros((dim,))

    def __call__(self, x: mx.array, content: mx.array) -> mx.array:
        """x (B, N, D), content (B or 1, N, 1) of ones and zeros."""
        wide = x.astype(mx.float32)
        count = content.sum(axis=1, keepdims=True) * x.shape[-1]
        mean = (wide * content).sum(axis=(1, 2), keepdims=True) / count
        variance = (mx.square(wide - mean) * content).sum(axis=(1, 2), keepdims=True) / count
        y = (wide - mean) * mx.rsqrt(variance + 1e-5) * self.weight + self.bias
        return (y * content).astype(x.dtype)


class ConvBlock(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.groupnorm = MaskedNorm(dim)
        self.project = Conv1d(dim, dim, 3)

    def __call__(self, x: mx.array, content: mx.array) -> mx.array:
        return self.project(nn.silu(self.groupnorm(x, content)))


class ResNetBlock(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.block1 = ConvBlock(dim)
        self.block2 = ConvBlock(dim)

    def __call__(self, x: mx.array, content: mx.array) -> mx.array:
        return x + self.block2(self.block1(x, content), content)


class Embeddings(nn.Module):
    """The class token, the frames, and what the block before the layers makes of them."""

    def __init__(self, dim: int):
        super().__init__()
        self.cls_token = mx.zeros((1, 1, dim))
        self.resnet_block = ResNetBlock(dim)

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        """x (B, N, D), mask (B, 1 + N) or None -> (B, 1 + N, D)."""
        token = mx.broadcast_to(self.cls_token, (x.shape[0], 1, x.shape[2]))
        x = mx.concatenate([token.astype(x.dtype), x], axis=1)
        content = mx.ones((1, x.shape[1])) if mask is None else mask.astype(mx.float32)
        return self.resnet_block(x, content[..., None])


class Attention(nn.Module):
    def __init__(self, config: PETransformerConfig):
        super().__init__()
        head_dim = config.dim // config.n_heads
        self.q_proj = nn.Linear(config.dim, config.dim, bias=False)
        self.k_proj = nn.Linear(config.dim, config.dim, bias=False)
        self.v_proj = nn.Linear(config.dim, config.dim, bias=False)
        self.o_proj = nn.Linear(config.dim, config.dim, bias=False)
        self.q_norm = nn.RMSNorm(head_dim, config.norm_eps)
        self.k_norm = nn.RMSNorm(head_dim, config.norm_eps)
        self._heads = config.n_heads

    def __call__(self, x: mx.array, rotary, mask: mx.array | None) -> mx.array:
        """(B, 1 + N, D) -> the same; mask (B, 1 + N) or None, True on content."""
        q, k, v = (
            split_heads(layer(x), self._heads) for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate_pairs(self.q_norm(q), *rotary), rotate_pairs(self.k_norm(k), *rotary)
        return self.o_proj(attend(q, k, v, mask))


class MLP(nn.Module):
    def __init__(self, config: PETransformerConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.dim, config.ffn_dim, bias=False)
        self.up_proj = nn.Linear(config.dim, config.ffn_dim, bias=False)
        self.down_proj = nn.Linear(config.ffn_dim, config.dim, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(nn.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config: PETransformerConfig):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.dim, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.dim, config.norm_eps)
        self.mlp = MLP(config)

    def __call__(self, x: mx.array, rotary, mask: mx.array | None) -> mx.array:
        x = x + self.self_attn(self.input_layernorm(x), rotary, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class PETransformer(nn.Module):
    def __init__(self, config: PETransformerConfig):
        super().__init__()
        self.embeddings = Embeddings(config.dim)
        self.layers = [Layer(config) for _ in range(config.n_layers)]
        self.norm = nn.RMSNorm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.dim, bias=False)
        self._rotary = (config.dim // config.n_heads, max(10_000, 2 * config.max_positions))

    def __call__(self, x: mx.array, mask: mx.array | None = None) -> mx.array:
        """x (B, N, D), mask (B, N), True on content -> frames (B, N, D)."""
        if mask is not None:  # the class token is content
            mask = mx.pad(mask, ((0, 0), (1, 0)), constant_values=True)
        x = self.embeddings(x, mask)
        rotary = rotary_table(x.shape[1], *self._rotary)
        for layer in self.layers:
            x = layer(x, rotary, mask)
        return self.output(self.norm(x))[:, 1:]
