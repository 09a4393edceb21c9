"""One-dimensional convolutions of the codec, arranged as dense stride-free work.

The codec's strided and transposed convolutions all have kernel = 2 x stride. Cut into blocks of
`stride` samples they are convolutions of two taps with stride 1, on every backend:

* strided: a block of `stride` input samples becomes one frame of `stride x channels` features;
* transposed: one frame yields `stride x channels` features, which are `stride` output samples
  (the polyphase form). MLX's Metal backend would instead multiply the inserted zeros.

Arrays are (B, T, C).

Every layer tells which inputs some outputs need (`needs`), so that the codec can work in exact
chunks, and a causal layer takes the inputs that came before (`past`), so that it can go on where
it stopped.
"""

import mlx.core as mx
import mlx.nn as nn

from . import cpu


@cpu.quicker(cpu.conv1d)
def conv1d(x: mx.array, weight: mx.array, dilation: int = 1) -> mx.array:
    """Valid convolution: x (B, T, C), weight (D, K, C) -> (B, T - (K - 1) * dilation, D)."""
    if weight.shape[1] == 1:  # a product, by fewer kernels
        return x @ weight[:, 0].T
    return mx.conv1d(x, weight, dilation=dilation)


def pad_time(x: mx.array, left: int, right: int) -> mx.array:
    return mx.pad(x, ((0, 0), (left, right), (0, 0))) if left or right else x


def prepend(past: mx.array, x: mx.array) -> mx.array:
    return mx.concatenate([past, x], axis=1)


class Conv1d(nn.Module):
    """Length-preserving convolution: zeros on both sides, or all on the left when causal."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int = 1, causal=False):
        super().__init__()
        scale = (inputs * kernel) ** -0.5
        self.weight = mx.random.uniform(-scale, scale, (outputs, kernel, inputs))
        self.bias = mx.zeros((outputs,))
        self._dilation = dilation
        reach = (kernel - 1) * dilation
        self._left = reach if causal else reach // 2
        self._right = reach - self._left

    def __call__(self, x: mx.array, past: mx.array | None = None) -> mx.array:
        x = pad_time(x, self._left, self._right) if past is None else prepend(past, x)
        return conv1d(x, self.weight, self._dilation) + self.bias

    @property
    def memory(self) -> int:
        return self._left

    def needs(self, first: int, last: int) -> tuple[int, int]:
        return first - self._left, last + self._right


class StridedConv1d(nn.Module):
    """Convolution of kernel 2 x stride: T -> T / stride frames. T is a multiple of stride.

    weight (D, 2, stride * C): two taps over blocks of `stride` samples.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, causal: bool = False):
        super().__init__()
        scale = (inputs * 2 * stride) ** -0.5
        self.weight = mx.random.uniform(-scale, scale, (outputs, 2, stride * inputs))
        self.bias = mx.zeros((outputs,))
        self._stride = stride
        self._left = stride if causal else stride // 2

    def __call__(self, x: mx.array, past: mx.array | None = None) -> mx.array:
        batch, _, channels = x.shape
        right = self._stride - self._left
        x = pad_time(x, self._left, right) if past is None else prepend(past, x)
        return conv1d(x.reshape(batch, -1, self._stride * channels), self.weight) + self.bias

    @property
    def memory(self) -> int:
        return self._left

    def needs(self, first: int, last: int) -> tuple[int, int]:
        return first * self._stride - self._left, (last + 2) * self._stride - self._left - 1


class TransposedConv1d(nn.Module):
    """Transposed convolution of kernel 2 x stride: N frames -> N * stride samples.

    weight (stride * D, 2, C): tap 0 meets the frame before, tap 1 the frame itself.
    The stride samples too many are cut on both sides, or all on the right when causal.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, causal: bool = False):
        super().__init__()
        scale = inputs**-0.5
        self.weight = mx.random.uniform(-scale, scale, (stride * outputs, 2, inputs))
        self.bias = mx.zeros((outputs,))
        self._stride = stride
        self._left = 0 if causal else (stride + 1) // 2

    def __call__(self, x: mx.array, past: mx.array | None = None) -> mx.array:
        batch, frames, _ = x.shape
        y = conv1d(pad_time(x, 1, 1) if past is None else prepend(past, x), self.weight)
        y = y.reshape(batch, y.shape[1] * self._stride, -1)
        return y[:, self._left : self._left + frames * self._stride] + self.bias

    @property
    def memory(self) -> int:
        return 1

    def needs(self, first: int, last: int) -> tuple[int, int]:
        return (first + self._left) // self._stride - 1, (last + self._left) // self._stride
