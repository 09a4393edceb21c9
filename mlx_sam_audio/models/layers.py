"""What several networks are made of.

The functions that call MLX's own are what Metal runs, and what one reads; `cpu` holds what is run
in their place on the CPU. B batch, L tokens or frames, D width, H heads.
"""

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from . import cpu


def rotary_table(frames: int, head_dim: int, theta: float) -> tuple[mx.array, mx.array]:
    """cos and sin (N, head_dim / 2), float32. mx.fast.rope strays from these by 2e-3 far out."""
    frequencies = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    angles = np.outer(np.arange(frames, dtype=np.float32), frequencies.astype(np.float32))
    return mx.array(np.cos(angles)), mx.array(np.sin(angles))


@mx.compile
def rotate(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """Turn the pairs that the halves of the last axis make: channels i and i + D / 2H of a head."""
    a, b = mx.split(x.astype(mx.float32), 2, axis=-1)
    return mx.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x.dtype)


@cpu.quicker(cpu.silu)
def silu(x: mx.array) -> mx.array:
    return nn.silu(x)


@cpu.quicker(cpu.swiglu)
@mx.compile
def swiglu(x: mx.array) -> mx.array:
    """silu(a) * b of the halves a and b of the last axis."""
    a, b = mx.split(x, 2, axis=-1)
    return nn.silu(a) * b


@cpu.quicker(cpu.rms_norm)
def rms_norm(x: mx.array, weight: mx.array, eps: float) -> mx.array:
    return mx.fast.rms_norm(x, weight, eps)


class RMSNorm(nn.RMSNorm):
    def __call__(self, x: mx.array) -> mx.array:
        return rms_norm(x, self.weight, self.eps)


@cpu.quicker(cpu.attention)
def attention(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None) -> mx.array:
    """softmax(q k^T / sqrt(D / H)) v of (B, H, L, D / H); mask (B, 1, 1, keys), True where a key
    is seen."""
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=mask)


def attend(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None) -> mx.array:
    """Heads (B, H, L, D / H) -> (B, L, D); mask (B, keys), True where a key may be seen."""
    return join_heads(attention(q, k, v, None if mask is None else mask[:, None, None]))


def attend_lean(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None = None) -> mx.array:
    """The same without a stand-in, which would take six times the memory for a picture's tokens;
    mask as MLX takes it."""
    scale = q.shape[-1] ** -0.5
    return join_heads(mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask))


def split_heads(x: mx.array, heads: int) -> mx.array:
    """(B, L, D) -> (B, H, L, D / H)."""
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def join_heads(x: mx.array) -> mx.array:
    """(B, H, L, D / H) -> (B, L, D)."""
    return x.swapaxes(1, 2).flatten(2)
