"""audiobox-aesthetics: how enjoyable, useful, complex and well produced a sound is.

Follows facebookresearch/audiobox-aesthetics (model/aes.py, wavlm.py): the encoder is WavLM, whose
attention knows how far apart two frames are, more or less of it as each frame's gate says. Every
axis weighs the encoder's states in its own way. B batch, T samples, N frames, C channels of the
convolutions, D width, H heads, S states: the first layer's input, and each layer's output.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .config import Dtype, Heads, Layers, Stored, Width, heads_do_not_fit
from .layers import attend_lean, split_heads
from .schema import Wrong

Taps = Annotated[int, 1, 2**10]
AXES = ("CE", "CU", "PC", "PQ")
CLIP = 160_000  # samples that are heard at once
EPS = 1e-5  # of every norm
SHORTEST = 1e-12  # length of an embedding that is scaled to one


@dataclass(frozen=True)
class WavLMConfig:
    channels: Width
    kernels: Annotated[tuple[Taps, ...], 1, 16]  # of the convolutions
    strides: Annotated[tuple[Taps, ...], 1, 16]
    dim: Width
    n_heads: Heads
    n_layers: Layers
    ffn_dim: Width
    position_kernel: Taps
    position_groups: Heads
    buckets: Annotated[int, 4, 2**12]  # of distances between frames
    max_distance: Annotated[int, 2, 2**16]  # beyond it there is one bucket

    @property
    def frames(self) -> int:
        """Of a clip."""
        count = CLIP
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            count = max(count - kernel, -stride) // stride + 1
        return count

    def wrong(self) -> Wrong:
        if len(self.kernels) != len(self.strides):
            return {"kernels and strides are not as many": True}
        return {
            **heads_do_not_fit(self.dim, self.n_heads),
            "dim is no multiple of position_groups": self.dim % self.position_groups,
            "buckets is no multiple of 4": self.buckets % 4,
            "max_distance is too short": self.max_distance <= self.buckets // 4,
            "a clip makes no frame": not self.frames,
            "a clip makes too many frames": self.n_heads * self.frames**2 > 2**26,
        }


@dataclass(frozen=True)
class Target:
    """What an axis' prediction is scaled by, and added to."""

    mean: Annotated[float, -1e6, 1e6]
    std: Annotated[float, 1e-6, 1e6]


@dataclass(frozen=True)
class Targets:
    CE: Target
    CU: Target
    PC: Target
    PQ: Target


@dataclass(frozen=True)
class AestheticsConfig(Stored):
    encoder: WavLMConfig
    head_layers: Annotated[int, 1, 2**6]
    targets: Targets
    dtype: Dtype

    model_type = "aesthetics"
    format = 1


class Convolution(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int):
        super().__init__()
        self.weight = mx.zeros((outputs, kernel, inputs))
        self._stride = stride

    def __call__(self, x: mx.array) -> mx.array:
        """(B, T, C) -> (B, about T / stride, C)."""
        return mx.conv1d(x, self.weight.astype(x.dtype), self._stride)


class ChannelNorm(nn.Module):
    """Each channel over time: a group norm of as many groups as channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = mx.ones((channels,))
        self.bias = mx.zeros((channels,))

    def __call__(self, x: mx.array) -> mx.array:
        """(B, N, C) -> the same."""
        x = x - mean(x)
        return x * mx.rsqrt(mean(mx.square(x)) + EPS) * self.weight + self.bias


def mean(x: mx.array) -> mx.array:
    """(B, N, C) -> (B, 1, C). By a product: MLX's sums of a clip's frames are off by 1e-5."""
    return mx.ones((1, x.shape[1])) @ x / x.shape[1]


class FeatureExtractor(nn.Module):
    def __init__(self, config: WavLMConfig):
        super().__init__()
        inputs = [1] + [config.channels] * (len(config.kernels) - 1)
        shapes = zip(inputs, config.kernels, config.strides, strict=True)
        self.convs = [Convolution(n, config.channels, *shape) for n, *shape in shapes]
        self.norm = ChannelNorm(config.channels)

    def __call__(self, wave: mx.array) -> mx.array:
        """(B, T) float32 -> (B, N, C). The first norm, over all of the time, is float32, too."""
        first, *others = self.convs
        x = nn.gelu(self.norm(first(wave[..., None]))).astype(first.weight.dtype)
        for conv in others:
            x = nn.gelu(conv(x))
        return x


class PositionConv(nn.Module):
    """A convolution that tells frames where they are, as far as it reaches: half to each side."""

    def __init__(self, config: WavLMConfig):
        super().__init__()
        shape = (config.dim, config.position_kernel, config.dim // config.position_groups)
        self.weight = mx.zeros(shape)
        self.bias = mx.zeros((config.dim,))
        self._groups = config.position_groups

    def __call__(self, x: mx.array) -> mx.array:
        """(B, N, D) -> the same."""
        y = mx.conv1d(x, self.weight, padding=self.weight.shape[1] // 2, groups=self._groups)
        return nn.gelu(y[:, : x.shape[1]] + self.bias)


class Attention(nn.Module):
    def __init__(self, config: WavLMConfig):
        super().__init__()
        self.q_proj = nn.Linear(config.dim, config.dim)
        self.k_proj = nn.Linear(config.dim, config.dim)
        self.v_proj = nn.Linear(config.dim, config.dim)
        self.out_proj = nn.Linear(config.dim, config.dim)
        self.grep_linear = nn.Linear(config.dim // config.n_heads, 8)
        self.grep_a = mx.ones((1, config.n_heads, 1, 1))
        self._heads = config.n_heads

    def __call__(self, x: mx.array, bias: mx.array, mask: mx.array) -> mx.array:
        """(B, N, D) -> the same; bias (H, N, N); mask (B, N), True on frames to be seen."""
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (split_heads(layer(x), self._heads) for layer in projections)
        bias = mx.where(mask[:, None, None], self.gate(x) * bias, -mx.inf)
        return self.out_proj(attend_lean(q, k, v, bias))

    def gate(self, x: mx.array) -> mx.array:
        """(B, N, D) -> (B, H, N, 1): by what a frame multiplies its distances' bias, 0 to about 3.
        Made of what the layer is given, not of the queries."""
        parts = mx.unflatten(self.grep_linear(split_heads(x, self._heads)), -1, (2, 4))
        a, b = mx.split(mx.sigmoid(parts.sum(axis=-1)), 2, axis=-1)
        return a * (b * self.grep_a - 1) + 2


class Layer(nn.Module):
    def __init__(self, config: WavLMConfig):
        super().__init__()
        self.self_attn = Attention(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.dim, EPS)
        self.fc1 = nn.Linear(config.dim, config.ffn_dim)
        self.fc2 = nn.Linear(config.ffn_dim, config.dim)
        self.final_layer_norm = nn.LayerNorm(config.dim, EPS)

    def __call__(self, x: mx.array, bias: mx.array, mask: mx.array) -> mx.array:
        """(B, N, D) -> the same; bias and mask as `Attention` takes them."""
        x = self.self_attn_layer_norm(x + self.self_attn(x, bias, mask))
        return self.final_layer_norm(x + self.fc2(nn.gelu(self.fc1(x))))


class WavLM(nn.Module):
    def __init__(self, config: WavLMConfig):
        super().__init__()
        self.feature_extractor = FeatureExtractor(config)
        self.layer_norm = nn.LayerNorm(config.channels, EPS)
        self.post_extract_proj = nn.Linear(config.channels, config.dim)
        self.pos_conv = PositionConv(config)
        self.norm = nn.LayerNorm(config.dim, EPS)
        self.relative_attention_bias = nn.Embedding(config.buckets, config.n_heads)
        self.layers = [Layer(config) for _ in range(config.n_layers)]
        self._max_distance = config.max_distance

    def __call__(self, wave: mx.array, mask: mx.array) -> tuple[list[mx.array], mx.array]:
        """Samples (B, T) float32 and mask (B, T), True on those that are no padding -> S states
        (B, N, D), and the mask of frames (B, N)."""
        x = self.project(self.feature_extractor(wave))
        mask = frames(mask, x.shape[1])
        x = mx.where(mask[..., None], x, 0)
        states = [self.norm(x + self.pos_conv(x))]
        bias = self.bias(x.shape[1])
        for layer in self.layers:
            states.append(layer(states[-1], bias, mask))
        return states, mask

    def project(self, features: mx.array) -> mx.array:
        """(B, N, C) -> (B, N, D)."""
        return self.post_extract_proj(self.layer_norm(features))

    def bias(self, length: int) -> mx.array:
        """(H, N, N): what each head adds for the distance from a query to a key."""
        distances = np.arange(length) - np.arange(length)[:, None]
        count = self.relative_attention_bias.weight.shape[0]
        places = mx.array(bucket(distances, count, self._max_distance))
        return self.relative_attention_bias(places).transpose(2, 0, 1)


def bucket(distances: np.ndarray, count: int, max_distance: int) -> np.ndarray:
    """Of each signed distance: half of the buckets for keys that come later; in a half, one each
    for short distances, and for longer ones as many of growing width."""
    half, exact = count // 2, count // 4
    far = np.abs(distances)
    scale = math.log(max_distance / exact)
    # float32, as there
    steps = np.log(np.maximum(far, exact).astype(np.float32) / exact) / scale * (half - exact)
    wide = np.minimum(exact + steps.astype(np.int64), half - 1)
    return np.where(far < exact, far, wide) + half * (distances > 0)


def frames(mask: mx.array, count: int) -> mx.array:
    """(B, T) -> (B, N): a frame counts if any of its share of the samples does; the samples left
    over by equal shares belong to none."""
    share = mask.shape[1] // count
    return mask[:, : count * share].reshape(-1, count, share).any(axis=-1)


class Head(nn.Module):
    def __init__(self, dim: int, layers: int):
        super().__init__()
        self.linears = [nn.Linear(dim, dim) for _ in range(layers - 1)] + [nn.Linear(dim, 1)]
        self.norms = [nn.LayerNorm(dim, EPS) for _ in range(layers - 1)]

    def __call__(self, x: mx.array) -> mx.array:
        """(B, D) -> (B,)."""
        *linears, last = self.linears
        for linear, norm in zip(linears, self.norms, strict=True):
            x = nn.gelu(norm(linear(x)))
        return last(x)[:, 0]


class LayerWeights(nn.Module):
    """What each axis makes of the states, as logits (S,)."""

    def __init__(self, states: int):
        super().__init__()
        for axis in AXES:
            self[axis] = mx.zeros((states,))


class AestheticsNetwork(nn.Module):
    def __init__(self, config: AestheticsConfig):
        super().__init__()
        self.wavlm_model = WavLM(config.encoder)
        self.layer_weights = LayerWeights(config.encoder.n_layers + 1)
        self.proj_layer = {axis: Head(config.encoder.dim, config.head_layers) for axis in AXES}
        targets = [getattr(config.targets, axis) for axis in AXES]
        self._means = mx.array([target.mean for target in targets])
        self._stds = mx.array([target.std for target in targets])

    def __call__(self, wave: mx.array, mask: mx.array) -> mx.array:
        """Samples (B, T) float32 at 16 kHz and mask (B, T), True on those that are no padding ->
        scores (B, 4) float32, in the order of AXES."""
        embedded = self.embed(*self.wavlm_model(wave, mask))
        return self.predict(embedded) * self._stds + self._means

    def embed(self, states: list[mx.array], mask: mx.array) -> mx.array:
        """States (B, N, D) and the mask of frames (B, N) -> (4, B, D) float32 of length one: means
        over frames, weighed as each axis does."""
        mask = mask[..., None].astype(mx.float32)
        means = mx.stack([(x * mask).sum(axis=1) for x in states]) / mask.sum(axis=1)
        logits = mx.stack([self.layer_weights[axis] for axis in AXES]).astype(mx.float32)
        mixed = mx.einsum("as,sbd->abd", mx.softmax(logits, axis=-1), means)
        lengths = mx.linalg.norm(mixed, axis=-1, keepdims=True)
        return mixed / mx.maximum(lengths, SHORTEST)

    def predict(self, embedded: mx.array) -> mx.array:
        """(4, B, D) -> (B, 4) float32, before they are scaled."""
        embedded = embedded.astype(self.wavlm_model.norm.weight.dtype)
        heads = zip(AXES, embedded, strict=True)
        return mx.stack([self.proj_layer[axis](x) for axis, x in heads], axis=1).astype(mx.float32)
