"""DACVAE, the audio codec: waveform (B, T) <-> latents (B, N, C), N = ceil(T / hop).

Follows facebookresearch/dacvae (dacvae/model/dacvae.py, nn/layers.py, nn/bottleneck.py). The
weights arrive with weight norm folded in and only the mean half of the bottleneck, since the
separation model never samples. Layout (batch, time, channels).
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import mlx.core as mx
import mlx.nn as nn

from . import cpu
from .config import MOST_SAMPLES, Rates, SampleRate, Width
from .conv import Conv1d, StridedConv1d, TransposedConv1d
from .schema import Wrong
from .watermark import Watermark


@dataclass(frozen=True)
class EncoderConfig:
    """The codec's encoding half."""

    sample_rate: SampleRate
    encoder_dim: Width
    encoder_rates: Rates
    latent_dim: Width
    codebook_dim: Width  # channels C of the latents

    @property
    def hop_length(self) -> int:
        return math.prod(self.encoder_rates)

    def wrong(self) -> Wrong:
        widest = self.encoder_dim * 2 ** len(self.encoder_rates)
        return {
            f"a frame has more than {MOST_SAMPLES} samples": self.hop_length > MOST_SAMPLES,
            "the encoder ends too wide": widest > 2**16,
        }


@dataclass(frozen=True)
class CodecConfig(EncoderConfig):
    decoder_dim: Width
    decoder_rates: Rates
    watermark: bool
    watermark_rates: Annotated[tuple[Annotated[int, 1, 2**10], ...], 0, 8]

    def wrong(self) -> Wrong:
        hop, marked = self.hop_length, math.prod(self.watermark_rates)
        narrowest = self.decoder_dim // 3 // 2 ** len(self.watermark_rates)
        return {
            **super().wrong(),
            "decoder_rates and encoder_rates differ": math.prod(self.decoder_rates) != hop,
            "decoder_dim cannot be halved so often": (
                self.decoder_dim % 2 ** len(self.decoder_rates)
            ),
            "watermark_rates do not fit": self.watermark
            and (not self.watermark_rates or hop % marked or narrowest < 2),
        }


@cpu.quicker(cpu.nearest)
def nearest(x: mx.array) -> mx.array:
    return mx.round(x)


@cpu.compiled
def snake(x: mx.array, turns: mx.array, height: mx.array) -> mx.array:
    """x + height * sin(pi turns x)^2, of x (B, T, C) and turns and height (C,).

    The sine is a polynomial of u, the squared distance from a whole turn, true to 2e-8 before
    rounding: MLX's own is a scalar loop on the CPU, and on the GPU either waits for memory. It is
    in pairs, and the shallow factor comes last, since MLX fuses chains of limited depth.
    """
    wide = x.astype(mx.float32)
    r = turns * wide
    u = mx.square(r - nearest(r))
    v = mx.square(u)
    first, second = 9.86960431 - 32.46967117 * u, 42.72719634 - 30.10146584 * u
    sine = first + v * second + mx.square(v) * (13.05009892 - 3.35659262 * u)
    return (wide + sine * (u * height)).astype(x.dtype)


def turns_and_height(alpha: mx.array) -> tuple[mx.array, mx.array]:
    alpha = alpha.astype(mx.float32)  # in float16 a small one's reciprocal overflows
    return alpha / math.pi, 1 / (alpha + 1e-9)


class Kept:
    """What `make` makes of an array, until there is another array.

    No array of a module, so neither one of its parameters nor captured by mx.compile.
    """

    def __init__(self, make: Callable[[mx.array], tuple[mx.array, ...]]):
        self._make, self._last = make, (None, ())

    def __call__(self, array: mx.array) -> tuple[mx.array, ...]:
        source, made = self._last
        if source is not array:
            with mx.stream(any_thread()):
                made = self._make(array)
            self._last = array, made
        return made


@functools.cache
def any_thread() -> mx.Stream:
    """For what is computed when first used, in whatever thread that is."""
    return mx.new_thread_unsafe_stream(mx.cpu)


class Snake(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.alpha = mx.ones((channels,))
        self.factors = Kept(turns_and_height)

    def __call__(self, x: mx.array) -> mx.array:
        return snake(x, *self.factors(self.alpha))

    def needs(self, first: int, last: int) -> tuple[int, int]:
        return first, last


class Stack(nn.Module):
    """Layers in a row, named `block` as in the reference."""

    block: list

    def __call__(self, x: mx.array) -> mx.array:
        return run(self.block, x)

    def needs(self, first: int, last: int) -> tuple[int, int]:
        return needs(self.block, first, last)


class ResidualUnit(Stack):
    def __init__(self, channels: int, dilation: int):
        super().__init__()
        self.block = [
            Snake(channels),
            Conv1d(channels, channels, 7, dilation),
            Snake(channels),
            Conv1d(channels, channels, 1),
        ]

    def __call__(self, x: mx.array) -> mx.array:
        return x + super().__call__(x)


class EncoderBlock(Stack):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.block = [ResidualUnit(inputs, d) for d in (1, 3, 9)]
        self.block += [Snake(inputs), StridedConv1d(inputs, outputs, stride)]


class DecoderBlock(Stack):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.block = [Snake(inputs), TransposedConv1d(inputs, outputs, stride)]
        self.block += [ResidualUnit(outputs, d) for d in (1, 3, 9)]


class Encoder(Stack):
    def __init__(self, config: EncoderConfig):
        super().__init__()
        width = config.encoder_dim
        self.block = [Conv1d(1, width, 7)]
        for stride in config.encoder_rates:
            self.block.append(EncoderBlock(width, 2 * width, stride))
            width *= 2
        self.block += [Snake(width), Conv1d(width, config.latent_dim, 3)]


class Decoder(nn.Module):
    def __init__(self, config: CodecConfig):
        super().__init__()
        width = config.decoder_dim
        self.model = [Conv1d(config.latent_dim, width, 7)]
        for stride in config.decoder_rates:
            self.model.append(DecoderBlock(width, width // 2, stride))
            width //= 2
        self.final = [Snake(width), Conv1d(width, 1, 7)]

    def __call__(self, x: mx.array, first: int, last: int) -> mx.array:
        """(B, N, latent_dim) -> samples first..last of the clean waveform, (B, n, 1) float32.

        Between the blocks, what those do not depend on is cut off: the first layers see far, but
        the last, which see little, have nearly all of the work.
        """
        layers, wanted = self.model + self.final, [(first, last)]
        for layer in layers[:0:-1]:
            wanted.append(layer.needs(*wanted[-1]))
        start = 0  # where x begins in the layer's whole output
        for layer, (begin, end) in zip(layers, reversed(wanted), strict=True):
            y = layer(x)
            start *= y.shape[1] // x.shape[1]
            x, start = y[:, max(begin - start, 0) : end + 1 - start], max(begin, start)
        return mx.tanh(x.astype(mx.float32))

    def needs(self, first: int, last: int) -> tuple[int, int]:
        return needs(self.model + self.final, first, last)


class Bottleneck(nn.Module):
    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.in_proj = nn.Linear(config.latent_dim, config.codebook_dim)
        self.out_proj = nn.Linear(config.codebook_dim, config.latent_dim)


class CodecEncoder(nn.Module):
    """The half of the codec that hears: all that a judge needs."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.encoder = Encoder(config)
        self.quantizer = Bottleneck(config)
        self.hop_length = config.hop_length  # samples per latent frame

    def encode(self, audio: mx.array) -> mx.array:
        """Waveform (B, T) -> latents (B, N, C). The tail is reflected to a whole frame."""
        audio = reflect_tail(audio, -audio.shape[1] % self.hop_length)
        dtype = self.quantizer.in_proj.weight.dtype
        return self.quantizer.in_proj(self.encoder(audio[..., None].astype(dtype)))

    @property
    def encoder_halo(self) -> int:
        """Frames of audio on each side that one latent frame depends on."""
        first, last = self.encoder.needs(0, 0)
        return -(-max(-first, last - self.hop_length + 1) // self.hop_length)


class DACVAE(CodecEncoder):
    def __init__(self, config: CodecConfig):
        super().__init__(config)
        self.decoder = Decoder(config)
        width, rates = config.decoder_dim // 3, config.watermark_rates
        self.watermark = Watermark(width, rates) if config.watermark else None

    def decode(self, latents: mx.array, message: mx.array | None = None) -> mx.array:
        """Latents (B, N, C) -> waveform (B, N * hop) float32, marked by a message (B, 16)."""
        return self.mark(self.decode_clean(latents), message)[0]

    def decode_clean(self, latents: mx.array, skip: int = 0, count: int | None = None) -> mx.array:
        """Latents (B, N, C) -> waveform (B, count * hop) float32, before the watermark.

        skip, count: the frames that are wanted; the others are their context.
        """
        count = latents.shape[1] - skip if count is None else count
        dtype = self.quantizer.out_proj.weight.dtype
        hidden = self.quantizer.out_proj(latents.astype(dtype))
        first, end = skip * self.hop_length, (skip + count) * self.hop_length
        return self.decoder(hidden, first, end - 1)[..., 0]

    def mark(
        self, audio: mx.array, message: mx.array | None, kept: tuple = ()
    ) -> tuple[mx.array, tuple]:
        """Clean audio (B, N * hop) with the watermark, and what the next chunk must be given."""
        if message is None:
            return audio, ()
        dtype = self.quantizer.out_proj.weight.dtype
        mark, kept = self.watermark(audio[..., None].astype(dtype), message, kept)
        return audio + mark[..., 0], kept

    @property
    def decoder_halo(self) -> int:
        """Latent frames on each side that one frame of clean audio depends on."""
        first, last = self.decoder.needs(0, self.hop_length - 1)
        return max(-first, last)


def reflect_tail(audio: mx.array, extra: int) -> mx.array:
    """Extend (B, T) by `extra` mirrored samples, bouncing at both ends of a very short clip."""
    if extra == 0:
        return audio
    length = audio.shape[1]
    period = max(2 * (length - 1), 1)
    positions = mx.arange(length, length + extra) % period
    return mx.concatenate([audio, audio[:, mx.minimum(positions, period - positions)]], axis=1)


def run(layers: list, x: mx.array) -> mx.array:
    for layer in layers:
        x = layer(x)
    return x


def needs(layers: list, first: int, last: int) -> tuple[int, int]:
    """The inputs (first, last) on which the outputs first..last of a stack depend."""
    for layer in reversed(layers):
        first, last = layer.needs(first, last)
    return first, last
