"""Stand-ins for MLX's own functions where MLX computes on the CPU, and the switch to them.

The networks call MLX's own, which is what Metal runs. MLX's CPU backend computes exp, rounding and
dilated convolutions for one number after the other, and half-precision products too: there
`quicker` puts in functions of the same meaning that become vector code, and models are widened to
float32 as they are loaded. `exp` has no gradient here.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator

import mlx.core as mx

LOG2_E = 1 / math.log(2)
ROUND = 1.5 * 2**23  # float32s around this one are whole numbers
WIDE = 512  # outputs of a convolution

_forced: bool | None = None


def on_cpu() -> bool:
    """Does MLX compute on the CPU?"""
    return mx.default_device() == mx.Device(mx.cpu)


def used() -> bool:
    """Are the stand-ins used? The switch; by itself, where MLX computes on the CPU."""
    return on_cpu() if _forced is None else _forced


@contextlib.contextmanager
def forced(use: bool) -> Iterator[None]:
    """Throws the switch, so that tests run both sides on every machine.

    mx.compile freezes it: make models, and what else is traced, within.
    """
    global _forced
    before, _forced = _forced, use
    try:
        yield
    finally:
        _forced = before


def quicker(stand_in: Callable) -> Callable[[Callable], Callable]:
    """Decorates a function that calls MLX's own: on the CPU, stand_in is called instead."""

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def call(*args):
            return (stand_in if used() else function)(*args)

        return call

    return decorate


def compiled(function: Callable) -> Callable:
    """mx.compile of a function that calls decorated ones: a trace for each side of the switch."""
    # partial: mx.compile knows functions by their address, and would have one trace for both
    traces = [mx.compile(functools.partial(function)) for _ in range(2)]

    @functools.wraps(function)
    def call(*args):
        return traces[used()](*args)

    return call


def nearest(x: mx.array) -> mx.array:
    """The whole numbers nearest to x, up to 2^22."""
    return mx.stop_gradient((x + ROUND) - ROUND)


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
    """e^x of a contiguous x, not below 2^-126 nor above 2^127; float32: as exact as MLX's own, and
    four times as fast."""
    return exp2(mx.clip(x.astype(mx.float32) * LOG2_E, -126, 127))


@mx.compile
def silu(x: mx.array) -> mx.array:
    return (x / (1 + exp(-x))).astype(x.dtype)


@mx.compile
def swiglu(x: mx.array) -> mx.array:
    a, b = (mx.contiguous(half) for half in mx.split(x, 2, axis=-1))
    return silu(a) * b


@mx.compile
def elu(x: mx.array) -> mx.array:
    return mx.where(x > 0, x, exp(mx.minimum(x, 0)) - 1).astype(x.dtype)


def rms_norm(x: mx.array, weight: mx.array, eps: float) -> mx.array:
    wide = x.astype(mx.float32)
    scale = mx.rsqrt(mx.square(wide).mean(axis=-1, keepdims=True) + eps)
    # contiguous: or mx.compile would move it into the loop over x, and make it for each element
    return (wide * mx.contiguous(scale)).astype(x.dtype) * weight


def attention(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None) -> mx.array:
    scores = k @ (q * q.shape[-1] ** -0.5).swapaxes(-1, -2)  # keys first: maxima, sums run down
    if mask is not None:
        scores = mx.where(mask.swapaxes(-1, -2), scores, -mx.inf)
    weights = exp(scores - mx.stop_gradient(scores.max(axis=-2, keepdims=True)))
    y = (weights.swapaxes(-1, -2) @ v) / weights.sum(axis=-2)[..., None]
    return y.astype(q.dtype)


def conv1d(x: mx.array, weight: mx.array, dilation: int = 1) -> mx.array:
    """A sum of shifted products: MLX's dilated convolutions are scalar loops, and its others unfold
    their input, which is little work only beside a wide layer's."""
    outputs, taps, _ = weight.shape
    if taps > 1 and dilation == 1 and outputs >= WIDE:
        return mx.conv1d(x, weight)
    length = x.shape[1] - (taps - 1) * dilation
    y = x[:, :length] @ weight[:, 0].T
    for k in range(1, taps):
        y = mx.addmm(y, x[:, k * dilation : k * dilation + length], weight[:, k].T)
    return y
