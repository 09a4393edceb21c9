"""ImageBind's audio and vision towers: vectors of unit length in one space.

Follows facebookresearch/ImageBind (imagebind/models/imagebind_model.py, transformer.py). Its
patch convolutions are products here. B clips or views, L tokens (class first, then patches row by
row), D width, E width of the common space.
"""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from .config import Dtype, Heads, Layers, Stored, Width, heads_do_not_fit
from .layers import attend_lean, split_heads
from .schema import Wrong

IMAGE, PATCH, PAIR = 224, 14, 2  # pixels, pixels, frames: a patch reaches over both
MELS, FRAMES = 128, 204  # of a clip's spectrogram
WINDOW, STRIDE = 16, 10  # of the spectrogram's patches, which overlap
EPS = 1e-6  # of every norm but the spectrogram's


@dataclass(frozen=True)
class TowerConfig:
    """One of ImageBind's."""

    dim: Width
    n_heads: Heads
    n_layers: Layers
    ffn_dim: Width
    output_dim: Width  # of the space that both towers share

    def wrong(self) -> Wrong:
        return heads_do_not_fit(self.dim, self.n_heads)


@dataclass(frozen=True)
class ImageBindConfig(Stored):
    audio: TowerConfig
    vision: TowerConfig
    dtype: Dtype

    model_type = "imagebind"
    format = 2

    def wrong(self) -> Wrong:
        return {"the towers differ in output_dim": self.audio.output_dim != self.vision.output_dim}


class Attention(nn.Module):
    def __init__(self, config: TowerConfig):
        super().__init__()
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.out_proj = nn.Linear(config.dim, config.dim)
        self._heads = config.n_heads

    def __call__(self, x: mx.array) -> mx.array:
        """(B, L, D) -> the same."""
        q, k, v = self.project(x)
        return self.out_proj(attend_lean(*(split_heads(part, self._heads) for part in (q, k, v))))

    def project(self, x: mx.array) -> list[mx.array]:
        """Queries, keys and values, each (B, L, D)."""
        return mx.split(self.qkv(x), 3, axis=-1)


class BiasedAttention(Attention):
    """With one learned key and value after the tokens' own."""

    def __init__(self, config: TowerConfig):
        super().__init__(config)
        self.bias_k = mx.zeros((1, 1, config.dim))
        self.bias_v = mx.zeros((1, 1, config.dim))

    def project(self, x: mx.array) -> list[mx.array]:
        """Queries (B, L, D), keys and values (B, L + 1, D)."""
        q, k, v = super().project(x)
        return [q, append(k, self.bias_k), append(v, self.bias_v)]


def append(x: mx.array, token: mx.array) -> mx.array:
    """(B, L, D), (1, 1, D) -> (B, L + 1, D)."""
    return mx.concatenate([x, mx.broadcast_to(token, (len(x), *token.shape[1:]))], axis=1)


class MLP(nn.Module):
    def __init__(self, config: TowerConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.dim, config.ffn_dim)
        self.fc2 = nn.Linear(config.ffn_dim, config.dim)

    def __call__(self, x: mx.array) -> mx.array:
        return self.fc2(nn.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, config: TowerConfig, attention: type[Attention]):
        super().__init__()
        self.norm_1 = nn.LayerNorm(config.dim, EPS)
        self.attn = attention(config)
        self.norm_2 = nn.LayerNorm(config.dim, EPS)
        self.mlp = MLP(config)

    def __call__(self, x: mx.array) -> mx.array:
        x = x + self.attn(self.norm_1(x))
        return x + self.mlp(self.norm_2(x))


class Tower(nn.Module):
    """What both have: `patches` and `embed` are each one's own."""

    def __init__(self, config: TowerConfig, values: int, tokens: int, attention: type[Attention]):
        super().__init__()
        self.stem = nn.Linear(values, config.dim, bias=False)
        self.class_token = mx.zeros((1, 1, config.dim))
        self.positions = mx.zeros((1, tokens + 1, config.dim))
        self.blocks = [Block(config, attention) for _ in range(config.n_layers)]
        self.norm = nn.LayerNorm(config.dim, EPS)
        self.proj = nn.Linear(config.dim, config.output_dim, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        """Inputs as `patches` takes them -> (B, E) float32 of unit length."""
        x = self.embed(self.stem(self.patches(x.astype(self.stem.weight.dtype))))
        for block in self.blocks:
            x = block(x)
        y = self.proj(self.norm(x[:, 0])).astype(mx.float32)
        return y / mx.linalg.norm(y, axis=-1, keepdims=True)

    def embed(self, x: mx.array) -> mx.array:
        """Patches (B, L - 1, D) -> tokens (B, L, D)."""
        first = mx.broadcast_to(self.class_token, (len(x), *self.class_token.shape[1:]))
        return mx.concatenate([first, x], axis=1) + self.positions


class VisionTower(Tower):
    def __init__(self, config: TowerConfig):
        super().__init__(config, 3 * PAIR * PATCH**2, (IMAGE // PATCH) ** 2, Attention)
        self.pre_norm = nn.LayerNorm(config.dim, EPS)

    def patches(self, x: mx.array) -> mx.array:
        """Views (B, 3, PAIR, IMAGE, IMAGE) -> (B, L - 1, 3 * PAIR * PATCH * PATCH)."""
        grid = IMAGE // PATCH
        x = x.reshape(len(x), 3, PAIR, grid, PATCH, grid, PATCH)
        return x.transpose(0, 3, 5, 1, 2, 4, 6).reshape(len(x), grid**2, -1)

    def embed(self, x: mx.array) -> mx.array:
        return self.pre_norm(super().embed(x))


class AudioTower(Tower):
    def __init__(self, config: TowerConfig):
        rows, columns = ((size - WINDOW) // STRIDE + 1 for size in (MELS, FRAMES))
        super().__init__(config, WINDOW**2, rows * columns, BiasedAttention)
        self.stem_norm = nn.LayerNorm(config.dim)
        self._grid = (rows, columns)

    def patches(self, x: mx.array) -> mx.array:
        """Spectrograms (B, MELS, FRAMES) -> (B, L - 1, WINDOW * WINDOW)."""
        down, across = (
            STRIDE * mx.arange(count)[:, None] + mx.arange(WINDOW) for count in self._grid
        )
        x = x[:, down][..., across]  # (B, rows, WINDOW, columns, WINDOW)
        return x.swapaxes(2, 3).reshape(len(x), -1, WINDOW**2)

    def embed(self, x: mx.array) -> mx.array:
        return super().embed(self.stem_norm(x))


class ImageBindNetwork(nn.Module):
    def __init__(self, config: ImageBindConfig):
        super().__init__()
        self.audio = AudioTower(config.audio)
        self.vision = VisionTower(config.vision)
