"""HTS-AT, CLAP's audio tower: a Swin transformer over a log-mel spectrogram folded to a square.

Follows LAION-AI/CLAP (clap_module/htsat.py) without fusion, up to the mean over tokens. Ten
seconds make 1001 frames, stretched to 1024 and laid out as four rows of 256, so that an ordinary
image network sees them. B batch, T samples, N frames, M mel bands, S side in tokens, W windows of
L tokens, D width.
"""

from dataclasses import dataclass
from typing import Annotated

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .config import Epsilon, Heads, SampleRate, Width
from .schema import Wrong


@dataclass(frozen=True)
class HTSATConfig:
    sample_rate: SampleRate
    clip_samples: Annotated[int, 1, 2**24]  # heard at once
    n_fft: Annotated[int, 16, 2**16]
    hop_length: Annotated[int, 1, 2**16]
    mel_bins: Annotated[int, 1, 2**10]
    image_size: Annotated[int, 1, 2**12]  # of the square that the spectrogram is folded to
    patch_size: Annotated[int, 1, 2**8]
    dim: Width  # of the first stage; doubles from stage to stage
    depths: Annotated[tuple[Annotated[int, 1, 2**6], ...], 1, 8]  # blocks of each stage
    n_heads: Annotated[tuple[Heads, ...], 1, 8]
    window: Annotated[int, 1, 2**6]  # tokens to a side
    eps: Epsilon

    def wrong(self) -> Wrong:
        stages, side = len(self.depths), self.image_size // self.patch_size
        frames = 1 + self.clip_samples // self.hop_length
        columns = self.image_size**2 // self.mel_bins
        pairs = side**2 * self.window**2 * sum(self.depths)  # of tokens that see each other
        odd = [self.dim * 2**i % heads for i, heads in enumerate(self.n_heads)]
        return {
            "depths and n_heads are not of the same stages": stages != len(self.n_heads),
            "the width of a stage is no multiple of its n_heads": any(odd),
            "the last stage is too wide": self.dim * 2**stages > 2**16,
            "n_fft is odd": self.n_fft % 2,
            "a clip is shorter than n_fft": self.clip_samples < self.n_fft,
            "image_size is no multiple of mel_bins": self.image_size % self.mel_bins,
            "image_size is no multiple of patch_size": self.image_size % self.patch_size,
            "the last stage is not whole windows": side % (2 ** (stages - 1) * self.window),
            "a clip is too long": frames * columns > 2**25,
            "the windows are too large": pairs > 2**25,
        }


class LogMel(nn.Module):
    """Decibels of a power spectrum in mel bands, which the checkpoint holds."""

    def __init__(self, config: HTSATConfig):
        super().__init__()
        self.melW = mx.zeros((config.n_fft // 2 + 1, config.mel_bins))
        self._window = mx.array(np.hanning(config.n_fft + 1)[:-1].astype(np.float32))
        self._hop = config.hop_length

    def __call__(self, wave: mx.array) -> mx.array:
        """(B, T) float32 -> (B, N, M) float32, a frame every hop, centred by reflection."""
        n_fft = len(self._window)
        half = n_fft // 2
        left, right = wave[:, half:0:-1], wave[:, -2 : -half - 2 : -1]
        wave = mx.contiguous(mx.concatenate([left, wave, right], axis=1))
        batch, length = wave.shape
        frames = 1 + (length - n_fft) // self._hop
        cuts = mx.as_strided(wave, (batch, frames, n_fft), (length, self._hop, 1))
        power = mx.square(mx.abs(mx.fft.rfft(cuts * self._window)))
        bands = power @ self.melW.astype(mx.float32)
        return 10 * mx.log10(mx.maximum(bands, 1e-10))


class PatchEmbed(nn.Module):
    def __init__(self, config: HTSATConfig):
        super().__init__()
        self.proj = nn.Linear(config.patch_size**2, config.dim)
        self.norm = nn.LayerNorm(config.dim, config.eps)
        self._size = config.patch_size

    def __call__(self, image: mx.array) -> mx.array:
        """(B, H, W) -> (B, S, S, D)."""
        batch, height, width = image.shape
        size = self._size
        patches = image.reshape(batch, height // size, size, width // size, size)
        patches = patches.swapaxes(2, 3).reshape(batch, height // size, width // size, -1)
        return self.norm(self.proj(patches))


class WindowAttention(nn.Module):
    """Tokens of one window see each other, with a bias for where they lie to each other."""

    def __init__(self, dim: int, n_heads: int, window: int):
        super().__init__()
        self.relative_position_bias_table = mx.zeros(((2 * window - 1) ** 2, n_heads))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self._n_heads = n_heads
        row, column = np.divmod(np.arange(window**2), window)
        rows, columns = (x[:, None] - x + window - 1 for x in (row, column))
        self._index = mx.array(rows * (2 * window - 1) + columns)

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        """Windows (B, W, L, D); mask (W, L, L), added -> (B, W, L, D)."""
        batch, windows, length, dim = x.shape
        heads = self._n_heads
        qkv = self.qkv(x).reshape(batch, windows, length, 3, heads, dim // heads)
        qkv = qkv.transpose(3, 0, 1, 4, 2, 5).reshape(3, batch, windows * heads, length, -1)
        bias = self.relative_position_bias_table[self._index].transpose(2, 0, 1)
        bias = (bias + mask[:, None].astype(bias.dtype)).reshape(1, -1, length, length)
        scale = (dim // heads) ** -0.5
        y = mx.fast.scaled_dot_product_attention(*qkv, scale=scale, mask=bias)
        y = y.reshape(batch, windows, heads, length, -1).swapaxes(2, 3)
        return self.proj(y.reshape(batch, windows, length, dim))


class MLP(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def __call__(self, x: mx.array) -> mx.array:
        return self.fc2(nn.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, config: HTSATConfig, dim: int, n_heads: int, side: int, shift: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, config.eps)
        self.attn = WindowAttention(dim, n_heads, config.window)
        self.norm2 = nn.LayerNorm(dim, config.eps)
        self.mlp = MLP(dim)
        self._window, self._shift = config.window, shift
        self._mask = mx.array(shift_mask(side, config.window, shift))

    def __call__(self, x: mx.array) -> mx.array:
        """(B, S, S, D) -> the same."""
        y = mx.roll(self.norm1(x), (-self._shift, -self._shift), axis=(1, 2))
        y = join_windows(self.attn(windows(y, self._window), self._mask), x.shape)
        x = x + mx.roll(y, (self._shift, self._shift), axis=(1, 2))
        return x + self.mlp(self.norm2(x))


def windows(x, size: int):
    """(B, S, S, D) -> (B, W, size * size, D), row after row."""
    batch, side, _, dim = x.shape
    x = x.reshape(batch, side // size, size, side // size, size, dim)
    return x.swapaxes(2, 3).reshape(batch, -1, size * size, dim)


def join_windows(x: mx.array, shape: tuple) -> mx.array:
    """What `windows` cut, (B, W, L, D), put together to `shape` (B, S, S, D)."""
    batch, side, _, dim = shape
    size = round(x.shape[2] ** 0.5)
    x = x.reshape(batch, side // size, side // size, size, size, dim)
    return x.swapaxes(2, 3).reshape(shape)


def shift_mask(side: int, window: int, shift: int) -> np.ndarray:
    """(W, L, L): -100 between tokens that only rolling made neighbours."""
    position = np.arange(side)
    band = (position >= side - window).astype(int) + (position >= side - shift)
    area = (3 * band[:, None] + band) if shift else np.zeros((side, side))
    area = windows(area[None, :, :, None], window)[0, :, :, 0]
    return np.where(area[:, :, None] == area[:, None], 0, -100).astype(np.float32)


class PatchMerging(nn.Module):
    """Four neighbours become one token of twice the width."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, eps)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        """(B, S, S, D) -> (B, S / 2, S / 2, 2D)."""
        corners = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.reduction(self.norm(mx.concatenate(corners, axis=-1)))


class Stage(nn.Module):
    def __init__(self, config: HTSATConfig, index: int):
        super().__init__()
        dim = config.dim * 2**index
        side = config.image_size // config.patch_size // 2**index
        # where one window holds all tokens there is nothing to shift
        shift = config.window // 2 if side > config.window else 0
        self.blocks = [
            Block(config, dim, config.n_heads[index], side, shift * (i % 2))
            for i in range(config.depths[index])
        ]
        last = index == len(config.depths) - 1
        self.downsample = nn.Identity() if last else PatchMerging(dim, config.eps)

    def __call__(self, x: mx.array) -> mx.array:
        """(B, S, S, D) -> (B, S / 2, S / 2, 2D), or the same for the last stage."""
        for block in self.blocks:
            x = block(x)
        return self.downsample(x)


class HTSAT(nn.Module):
    def __init__(self, config: HTSATConfig):
        super().__init__()
        self.logmel_extractor = LogMel(config)
        self.bn0 = nn.BatchNorm(config.mel_bins, eps=1e-5)
        self.patch_embed = PatchEmbed(config)
        self.layers = [Stage(config, i) for i in range(len(config.depths))]
        self.norm = nn.LayerNorm(config.dim * 2 ** (len(config.depths) - 1), config.eps)
        self._size = config.image_size
        frames = 1 + config.clip_samples // config.hop_length
        self._stretch = mx.array(bicubic(frames, config.image_size**2 // config.mel_bins))

    def __call__(self, wave: mx.array) -> mx.array:
        """Clips (B, T) float32 of the config's length -> (B, D of the last stage)."""
        return self.tokens(self.logmel_extractor(wave)).mean(axis=1)

    def tokens(self, mel: mx.array) -> mx.array:
        """(B, N, M) -> normed tokens of the last stage (B, S * S, D)."""
        x = self.patch_embed(self.fold(mel))
        for stage in self.layers:
            x = stage(x)
        return self.norm(x.flatten(1, 2))

    def fold(self, mel: mx.array) -> mx.array:
        """(B, N, M) -> (B, size, size): chunks of time above each other, frequency downwards."""
        x = self._stretch @ self.bn0(mel)
        x = x.reshape(len(mel), -1, self._size, mel.shape[2]).swapaxes(2, 3)
        x = x.reshape(len(mel), self._size, self._size)
        return x.astype(self.patch_embed.proj.weight.dtype)


def bicubic(inputs: int, outputs: int) -> np.ndarray:
    """(outputs, inputs): PyTorch's bicubic interpolation with align_corners, as one product."""
    a = -0.75
    # float32, as there: it moves late positions by up to 5e-5, which shows after the patches' norm
    step = np.float32((inputs - 1) / (outputs - 1))
    place = step * np.arange(outputs, dtype=np.float32)[:, None]
    taps = np.floor(place).astype(int) + np.arange(-1, 3)
    x = np.abs(place - taps)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = ((x - 5) * x + 8) * a * x - 4 * a
    matrix = np.zeros((outputs, inputs))
    rows = np.broadcast_to(np.arange(outputs)[:, None], taps.shape)
    np.add.at(matrix, (rows, taps.clip(0, inputs - 1)), np.where(x <= 1, near, far))
    return matrix.astype(np.float32)
