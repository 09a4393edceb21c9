"""PE-Core's vision transformer: one vector of unit length for every video frame.

Follows facebookresearch/perception_models (core/vision_encoder/pe.py, rope.py). The converter
turns the patch convolution into a product, transposes `proj`, and sorts each head's channels so
that rotary pairs are its two halves. F frames, S image size, L tokens (class, then patches row by
row), D width, H heads.
"""

from dataclasses import dataclass
from typing import Annotated

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .config import Heads, Layers, Width, heads_do_not_fit
from .layers import attend_lean, rotate, split_heads
from .schema import Wrong


@dataclass(frozen=True)
class VisionConfig:
    dim: Width  # width of one frame's vector
    image_size: Annotated[int, 1, 2**13]
    patch_size: Annotated[int, 1, 2**8]
    width: Width
    layers: Layers
    heads: Heads
    pool_heads: Heads
    mlp_dim: Width

    def wrong(self) -> Wrong:
        return {
            **heads_do_not_fit(self.width, self.heads, 4),
            **heads_do_not_fit(self.width, self.pool_heads),
            "a head is wider than 1024": self.width // self.heads > 1024,
            "image_size is no multiple of patch_size": self.image_size % self.patch_size,
            "a picture has more than 128 x 128 patches": self.image_size > 128 * self.patch_size,
        }


def rotary_grid(grid: int, head_dim: int) -> tuple[mx.array, mx.array]:
    """cos and sin (L, head_dim / 2), float32: the column turns the first half of the pairs, the
    row the second; both count from 1, and the class token is not turned."""
    frequencies = 10_000.0 ** -(np.arange(0, head_dim // 2, 2, dtype=np.float32) / (head_dim // 2))
    angles = np.outer(np.arange(1, grid + 1, dtype=np.float32), frequencies)
    columns, rows = np.tile(angles, (grid, 1)), np.repeat(angles, grid, axis=0)
    table = np.pad(np.concatenate([columns, rows], axis=1), ((1, 0), (0, 0)))
    return mx.array(np.cos(table)), mx.array(np.sin(table))


class MLP(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.c_fc = nn.Linear(config.width, config.mlp_dim)
        self.c_proj = nn.Linear(config.mlp_dim, config.width)

    def __call__(self, x: mx.array) -> mx.array:
        return self.c_proj(nn.gelu(self.c_fc(x)))


class SelfAttention(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out_proj = nn.Linear(config.width, config.width)
        self._heads = config.heads

    def __call__(self, x: mx.array, rotary: tuple[mx.array, mx.array]) -> mx.array:
        q, k, v = (split_heads(part, self._heads) for part in mx.split(self.qkv(x), 3, axis=-1))
        return self.out_proj(attend_lean(rotate(q, *rotary), rotate(k, *rotary), v))


class AttentionPooling(nn.Module):
    """A learned probe attends to all tokens; the residual starts at the attention's output."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.probe = mx.zeros((1, 1, config.width))
        self.q = nn.Linear(config.width, config.width)
        self.kv = nn.Linear(config.width, 2 * config.width)
        self.out_proj = nn.Linear(config.width, config.width)
        self.layernorm = nn.LayerNorm(config.width)
        self.mlp = MLP(config)
        self._heads = config.pool_heads

    def __call__(self, x: mx.array) -> mx.array:
        """(F, L, D) -> (F, D)."""
        probe = mx.broadcast_to(self.probe, (len(x), *self.probe.shape[1:]))
        k, v = (split_heads(part, self._heads) for part in mx.split(self.kv(x), 2, axis=-1))
        y = self.out_proj(attend_lean(split_heads(self.q(probe), self._heads), k, v))[:, 0]
        return y + self.mlp(self.layernorm(y))


class Block(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.width)
        self.attn = SelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.width)
        self.mlp = MLP(config)

    def __call__(self, x: mx.array, rotary: tuple[mx.array, mx.array]) -> mx.array:
        x = x + self.attn(self.ln_1(x), rotary)
        return x + self.mlp(self.ln_2(x))


class VisionEncoder(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        width, grid = config.width, config.image_size // config.patch_size
        self.conv1 = nn.Linear(3 * config.patch_size**2, width, bias=False)
        self.class_embedding = mx.zeros((width,))
        self.positional_embedding = mx.zeros((1 + grid**2, width))
        self.ln_pre = nn.LayerNorm(width)
        self.blocks = [Block(config) for _ in range(config.layers)]
        self.ln_post = nn.LayerNorm(width)
        self.attn_pool = AttentionPooling(config)
        self.proj = nn.Linear(width, config.dim, bias=False)
        self._patches = (grid, config.patch_size)
        self._rotary = rotary_grid(grid, width // config.heads)

    def __call__(self, frames: mx.array) -> mx.array:
        """Frames (F, 3, S, S) uint8 -> (F, dim) float32 of unit length."""
        pixels = (frames.astype(mx.float32) / 255 - 0.5) / 0.5
        x = self.conv1(self.patches(pixels.astype(self.conv1.weight.dtype)))
        first = mx.broadcast_to(self.class_embedding, (len(x), 1, x.shape[-1]))
        x = mx.concatenate([first, x], axis=1) + self.positional_embedding
        x = self.ln_pre(x)
        for block in self.blocks:
            x = block(x, self._rotary)
        y = self.proj(self.attn_pool(self.ln_post(x))).astype(mx.float32)
        return y / mx.maximum(mx.linalg.norm(y, axis=-1, keepdims=True), 1e-12)

    def patches(self, pixels: mx.array) -> mx.array:
        """(F, 3, S, S) -> (F, patches, 3 * size * size)."""
        grid, size = self._patches
        x = pixels.reshape(len(pixels), 3, grid, size, grid, size)
        return x.transpose(0, 2, 4, 1, 3, 5).reshape(len(pixels), grid**2, -1)
