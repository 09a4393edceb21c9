"""The codec's watermark: a causal network that hides 16 bits in every decoded waveform.

Follows `Watermarker` and the second path of `DecoderBlock` in facebookresearch/dacvae
(dacvae/model/dacvae.py), an AudioSeal-style generator. Layout (batch, time, channels).
"""

import mlx.core as mx
import mlx.nn as nn

from . import cpu
from .conv import Conv1d, StridedConv1d, TransposedConv1d

BITS = 16
HIDDEN = 128  # width of the message embedding, a constant of the reference


class Carry:
    """What each causal layer saw last, so that a stream of chunks equals the whole.

    Layers are met in the same order in every chunk. A fresh Carry stands for the silence of zeros
    before the first sample.
    """

    def __init__(self, kept: tuple = ()):
        self._before, self.kept = iter(kept), []

    def conv(self, layer: Conv1d | StridedConv1d | TransposedConv1d, x: mx.array) -> mx.array:
        past = next(self._before, None)
        if past is None:
            past = mx.zeros((x.shape[0], layer.memory, x.shape[2]), x.dtype)
        y = layer(x, past)
        # a chunk may be shorter than what the layer remembers
        recent = mx.concatenate([past, x], axis=1) if x.shape[1] < layer.memory else x
        self.kept.append(end(recent, layer.memory))
        return y

    def lstm(self, layer: "LSTMLayer", x: mx.array) -> mx.array:
        silence = mx.zeros((len(x), layer.hidden_size), x.dtype)
        y, hidden, cell = layer(x, *next(self._before, (silence, silence)))
        self.kept.append((hidden, cell))
        return y


def end(x: mx.array, count: int) -> mx.array:
    """A copy of the last samples: a slice would keep all of x in memory."""
    return mx.take(x, mx.arange(x.shape[1] - count, x.shape[1]), axis=1)


@cpu.quicker(cpu.elu)
def elu(x: mx.array) -> mx.array:
    return nn.elu(x)


class ResidualELU(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.block = [Conv1d(channels, channels // 2, 3, causal=True)]
        self.block += [Conv1d(channels // 2, channels, 1)]

    def __call__(self, x: mx.array, carry: Carry) -> mx.array:
        return x + self.block[1](elu(carry.conv(self.block[0], elu(x))))


@mx.compile
def gated(gates: mx.array, cell: mx.array) -> tuple[mx.array, mx.array]:
    i, f, g, o = mx.split(gates, 4, axis=-1)
    cell = mx.sigmoid(f) * cell + mx.sigmoid(i) * mx.tanh(g)
    return mx.sigmoid(o) * mx.tanh(cell), cell


class LSTMLayer(nn.LSTM):
    """nn.LSTM with few kernels a step, since steps wait for one another."""

    def __call__(self, x: mx.array, hidden: mx.array, cell: mx.array) -> tuple[mx.array, ...]:
        """x (B, T, D), the state before it (B, D) -> hidden states (B, T, D) and the last state."""
        x, rows = mx.addmm(self.bias, x, self.Wx.T), []
        for i in range(x.shape[1]):
            hidden, cell = gated(mx.addmm(x[:, i], hidden, self.Wh.T), cell)
            rows.append(hidden)
        return mx.stack(rows, axis=1), hidden, cell


class LSTM(nn.Module):
    """Two LSTM layers with a skip around both."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = [LSTMLayer(width, width), LSTMLayer(width, width)]

    def __call__(self, x: mx.array, carry: Carry) -> mx.array:
        y = x
        for layer in self.layers:
            y = carry.lstm(layer, y)
        return x + y


class Watermark(nn.Module):
    def __init__(self, width: int, rates: tuple[int, ...]):
        super().__init__()
        # full-size: widths 512, 256, 128, 64, 32 at rates 8, 5, 4, 2
        widths = [width // 2**i for i in range(len(rates) + 1)]
        stages = list(zip(widths[:-1], widths[1:], rates, strict=True))
        self.pre = Conv1d(1, widths[-1], 7, causal=True)
        self.down = [
            [ResidualELU(small), StridedConv1d(small, large, rate, causal=True)]
            for large, small, rate in reversed(stages)
        ]
        self.encoder_lstm = LSTM(widths[0])
        self.encoder_out = Conv1d(widths[0], HIDDEN, 7, causal=True)
        self.message = nn.Embedding(2 * BITS, HIDDEN)
        self.decoder_in = Conv1d(HIDDEN, widths[0], 7, causal=True)
        self.decoder_lstm = LSTM(widths[0])
        self.up = [
            [TransposedConv1d(large, small, rate, causal=True), ResidualELU(small)]
            for large, small, rate in stages
        ]
        self.post = Conv1d(widths[-1], 1, 7, causal=True)
        self._gain = widths[-1] / HIDDEN

    def __call__(
        self, audio: mx.array, message: mx.array, kept: tuple = ()
    ) -> tuple[mx.array, tuple]:
        """audio (B, T, 1), message (B, 16) of zeros and ones -> the mark to add, (B, T, 1).

        T is a multiple of the product of the rates. `kept` is what the call on the samples just
        before returned as second value; () at the start.
        """
        carry = Carry(kept)
        h = carry.conv(self.pre, audio)
        for residual, conv in self.down:
            h = carry.conv(conv, elu(residual(h, carry)))
        h = carry.conv(self.encoder_out, elu(self.encoder_lstm(h, carry)))
        rows = 2 * mx.arange(BITS) + message.astype(mx.int32)
        h = h + self.message(rows).sum(axis=1, keepdims=True)
        h = self.decoder_lstm(carry.conv(self.decoder_in, h), carry)
        for conv, residual in self.up:
            h = residual(carry.conv(conv, elu(h)), carry)
        return self._gain * carry.conv(self.post, elu(h)), tuple(carry.kept)
