"""DACVAE, the audio codec: waveform (B, T) <-> latents (B, N, C), N = ceil(T / hop).

Follows facebookresearch/dacvae (dacvae/model/dacvae.py, nn/layers.py, nn/bottleneck.py). The
weights arrive with weight norm folded in and only the mean half of the bottleneck, since the
separation model never samples. Layout (batch, time, channels).
"""

import mlx.core as mx
import mlx.nn as nn

from .config import CodecConfig
from .conv import Conv1d, StridedConv1d, TransposedConv1d
from .watermark import Watermark


@mx.compile
def snake(x: mx.array, alpha: mx.array) -> mx.array:
    # in float16 the reciprocal of a small alpha overflows
    wide, alpha = x.astype(mx.float32), alpha.astype(mx.float32)
    return (wide + mx.square(mx.sin(alpha * wide)) / (alpha + 1e-9)).astype(x.dtype)


class Snake(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.alpha = mx.ones((channels,))

    def __call__(self, x: mx.array) -> mx.array:
        return snake(x, self.alpha)


class ResidualUnit(nn.Module):
    def __init__(self, channels: int, dilation: int):
        super().__init__()
        self.block = [
            Snake(channels),
            Conv1d(channels, channels, 7, dilation),
            Snake(channels),
            Conv1d(channels, channels, 1),
        ]

    def __call__(self, x: mx.array) -> mx.array:
        return x + run(self.block, x)


class EncoderBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.block = [ResidualUnit(inputs, d) for d in (1, 3, 9)]
        self.block += [Snake(inputs), StridedConv1d(inputs, outputs, stride)]

    def __call__(self, x: mx.array) -> mx.array:
        return run(self.block, x)


class DecoderBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.block = [Snake(inputs), TransposedConv1d(inputs, outputs, stride)]
        self.block += [ResidualUnit(outputs, d) for d in (1, 3, 9)]

    def __call__(self, x: mx.array) -> mx.array:
        return run(self.block, x)


class Encoder(nn.Module):
    def __init__(self, config: CodecConfig):
        super().__init__()
        width = config.encoder_dim
        self.block = [Conv1d(1, width, 7)]
        for stride in config.encoder_rates:
            self.block.append(EncoderBlock(width, 2 * width, stride))
            width *= 2
        self.block += [Snake(width), Conv1d(width, config.latent_dim, 3)]

    def __call__(self, x: mx.array) -> mx.array:
        return run(self.block, x)


class Decoder(nn.Module):
    def __init__(self, config: CodecConfig):
        super().__init__()
        width = config.decoder_dim
        self.model = [Conv1d(config.latent_dim, width, 7)]
        for stride in config.decoder_rates:
            self.model.append(DecoderBlock(width, width // 2, stride))
            width //= 2
        self.final = [Snake(width), Conv1d(width, 1, 7)]

    def __call__(self, x: mx.array) -> mx.array:
        """(B, N, latent_dim) -> the last feature map (B, T, width), which the watermark reads."""
        return run(self.model, x)


class Bottleneck(nn.Module):
    def __init__(self, config: CodecConfig):
        super().__init__()
        self.in_proj = nn.Linear(config.latent_dim, config.codebook_dim)
        self.out_proj = nn.Linear(config.codebook_dim, config.latent_dim)


class DACVAE(nn.Module):
    def __init__(self, config: CodecConfig):
        super().__init__()
        self.encoder = Encoder(config)
        self.quantizer = Bottleneck(config)
        self.decoder = Decoder(config)
        self.watermark = Watermark(config) if config.watermark else None
        self._hop_length = config.hop_length

    def encode(self, audio: mx.array) -> mx.array:
        """Waveform (B, T) -> latents (B, N, C). The tail is reflected to a whole frame."""
        audio = reflect_tail(audio, -audio.shape[1] % self._hop_length)
        dtype = self.quantizer.in_proj.weight.dtype
        return self.quantizer.in_proj(self.encoder(audio[..., None].astype(dtype)))

    def decode(self, latents: mx.array, message: mx.array | None = None) -> mx.array:
        """Latents (B, N, C) -> waveform (B, N * hop) float32, marked by a message (B, 16)."""
        dtype = self.quantizer.out_proj.weight.dtype
        hidden = self.decoder(self.quantizer.out_proj(latents.astype(dtype)))
        audio = mx.tanh(run(self.decoder.final, hidden).astype(mx.float32))
        if message is not None:
            audio = audio + self.watermark(audio.astype(dtype), message)
        return audio[..., 0]


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
