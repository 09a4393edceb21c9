"""Functions that are MLX's own on the GPU, and on the CPU are written to become vector code.

There MLX computes exp for one number after the other: a polynomial is as exact and four times as
fast.
"""

import math

import mlx.core as mx
import mlx.nn as nn

from .device import on_cpu

LOG2_E = 1 / math.log(2)
ROUND = 1.5 * 2**23  # float32s around this one are whole numbers


def nearest(x: mx.array) -> mx.array:
    """The whole numbers nearest to x, up to 2^22. On the CPU mx.round is a call for each number."""
    return (x + ROUND) - ROUND if on_cpu() else mx.round(x)


def exp2(x: mx.array) -> mx.array:
    """2^x = 2^n * 2^f, n whole and f from -1/2 to 1/2, of x from -126 to 127; float32.

    2^f within 8e-8 by as few operations as `mx.compile` still makes one loop of. That becomes
    vector code only if nothing is called in it and x is contiguous.
    """
    n = nearest(x)
    f = x - n
    low, middle = 1.0000000710 + f * 0.693146949, 0.240221218 + f * 0.0555074262
    v = mx.square(f)
    power = low + v * (middle + v * (0.00967545975 + f * 0.00132669704))
    bits = ((n + 127) * 2**23).astype(mx.int32)  # of 2^n
    return power * bits.view(mx.float32)


def exp(x: mx.array) -> mx.array:
    """e^x of a contiguous x, not below 2^-126 nor above 2^127; float32."""
    return exp2(mx.clip(x.astype(mx.float32) * LOG2_E, -126, 127))


@mx.compile
def silu(x: mx.array) -> mx.array:
    return (x / (1 + exp(-x))).astype(x.dtype) if on_cpu() else nn.silu(x)


@mx.compile
def swiglu(x: mx.array) -> mx.array:
    """silu(a) * b of the halves a and b of the last axis."""
    a, b = mx.split(x, 2, axis=-1)
    if on_cpu():
        a, b = mx.contiguous(a), mx.contiguous(b)
    return silu(a) * b


@mx.compile
def elu(x: mx.array) -> mx.array:
    return mx.where(x > 0, x, exp(mx.minimum(x, 0)) - 1).astype(x.dtype) if on_cpu() else nn.elu(x)


class RMSNorm(nn.RMSNorm):
    def __call__(self, x: mx.array) -> mx.array:
        if not on_cpu():
            return super().__call__(x)
        wide = x.astype(mx.float32)
        scale = mx.rsqrt(mx.square(wide).mean(axis=-1, keepdims=True) + self.eps)
        # contiguous: or mx.compile would move it into the loop over x, and make it for each element
        return (wide * mx.contiguous(scale)).astype(x.dtype) * self.weight


def attention(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None) -> mx.array:
    """softmax(q k^T / sqrt(D)) v of (B, H, N, D); mask (B, 1, 1, N), True where a key is seen."""
    scale = q.shape[-1] ** -0.5
    if not on_cpu():
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
    scores = k @ (q * scale).swapaxes(-1, -2)  # keys first: maxima and sums run down whole rows
    if mask is not None:
        scores = mx.where(mask.swapaxes(-1, -2), scores, -mx.inf)
    weights = exp(scores - scores.max(axis=-2, keepdims=True))
    y = (weights.swapaxes(-1, -2) @ v) / weights.sum(axis=-2)[..., None]
    return y.astype(q.dtype)
