"""How each kind of module gets its parameters from the PyTorch checkpoint.

A rule belongs to a module's type, never to a tensor's shape: it names the source tensors it needs
and turns them into parameters. A module without a rule takes its parameters as they are.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from mlx_sam_audio.loading.weights import complain
from mlx_sam_audio.models import aesthetics, conv, dacvae, dit, htsat, vision, watermark
from mlx_sam_audio.models import imagebind as imagebind_network
from mlx_sam_audio.models import sam_audio as network
from mlx_sam_audio.models.config import Stored

from .layouts import Weights


@dataclass(frozen=True)
class Rule:
    """parameters = make(*sources); names below the module's own prefix until placed."""

    parameters: tuple[str, ...]
    sources: tuple[str, ...]
    make: Callable[..., tuple[np.ndarray, ...]]


@dataclass(frozen=True)
class Part:
    """The parameters below a prefix, and the file that they come from."""

    prefix: str  # "": all that no other part has; such a part comes last
    weights: Weights
    source_name: Callable[[str], str]  # our module's name -> its name in that file
    left_out: dict[str, str]  # patterns of tensors that are not converted, and why


@dataclass(frozen=True)
class Checkpoint:
    """All that a source model's file knows of a checkpoint that is to be converted."""

    config: Stored
    network: nn.Module
    parts: tuple[Part, ...]
    copies: tuple[Path, ...]  # files that the new folder gets as they are
    origin: Callable[[], dict]  # where everything came from, once it was read


def plan(
    root: nn.Module,
    source_name: Callable[[str], str],
    shapes: dict[str, tuple],
    left_out: dict[str, str],
) -> list[Rule]:
    """The rules that fill every parameter of `root`, each source tensor used once.

    source_name: our module's name -> its name in the checkpoint. left_out: patterns of tensors
    that are not converted, with the reason. Raises SAMAudioError that names the first missing and
    unexpected tensors.
    """
    rules, filled = [], set()
    for name, module in sorted(root.named_modules(), key=lambda item: len(item[0])):
        source = source_name(name)
        special = SPECIAL.get(type(module), lambda module, has: [])
        found = special(module, lambda key, source=source: join(source, key) in shapes)
        named = {key for rule in found for key in rule.parameters}
        for key in own_parameters(module):
            if key not in named and join(name, key) not in filled:
                found.append(Rule((key,), (key,), lambda value: (value,)))
        for rule in found:
            parameters = tuple(join(name, key) for key in rule.parameters)
            filled.update(parameters)
            rules.append(Rule(parameters, tuple(join(source, k) for k in rule.sources), rule.make))
    claimed = [source for rule in rules for source in rule.sources]
    complain("the conversion uses twice", sorted(k for k, n in Counter(claimed).items() if n > 1))
    complain("the checkpoint lacks", sorted(set(claimed) - set(shapes)))
    known = re.compile("|".join(f"(?:{pattern})" for pattern in left_out) or "(?!)")
    unexpected = [k for k in set(shapes) - set(claimed) if not known.match(k)]
    complain("the checkpoint holds unexpected", sorted(unexpected))
    return rules


def own_parameters(module: nn.Module) -> list[str]:
    """Names of the arrays a module holds itself, not through a child."""
    return [key for key, _ in tree_flatten(module.parameters()) if "." not in key]


def join(prefix: str, key: str) -> str:
    return f"{prefix}.{key}" if prefix else key


def fold(g: np.ndarray, v: np.ndarray, kept: int = 0) -> np.ndarray:
    """The weight of a weight-normed convolution: its norm is over all dimensions but one."""
    others = tuple(i for i in range(v.ndim) if i != kept)
    norm = np.sqrt(np.square(v, dtype=np.float64).sum(others, keepdims=True))
    check_alike(g, norm)
    with np.errstate(invalid="ignore"):  # a row of zeros turns NaN, which is refused if it is used
        return v * (g / norm).astype(np.float32)


def check_alike(a: np.ndarray, b: np.ndarray) -> None:
    """Shapes that are not alike may broadcast to huge ones."""
    if a.shape != b.shape:
        raise ValueError(f"{a.shape} is not {b.shape}")


def added(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    check_alike(a, b)
    return a + b


def convolution(has: Callable[[str], bool], arrange: Callable, key: str = "") -> Rule:
    """The weight of a PyTorch convolution, weight-normed or not, arranged for ours."""
    names = ("weight_g", "weight_v") if has(join(key, "weight_g")) else ("weight",)
    sources = tuple(join(key, name) for name in names)
    make = (lambda g, v: (arrange(fold(g, v)),)) if len(names) == 2 else (lambda w: (arrange(w),))
    return Rule((join(key, "weight"),), sources, make)


def strided(weight: np.ndarray) -> np.ndarray:
    """(D, C, 2 stride) -> (D, 2, stride * C): taps over blocks of `stride` samples."""
    outputs, _, kernel = weight.shape
    return weight.transpose(0, 2, 1).reshape(outputs, 2, kernel // 2 * weight.shape[1])


def transposed(weight: np.ndarray) -> np.ndarray:
    """(C, D, 2 stride) -> (stride * D, 2, C), polyphase; tap 0 meets the frame before."""
    inputs, outputs, kernel = weight.shape
    taps = weight.reshape(inputs, outputs, 2, kernel // 2)[:, :, ::-1]
    return taps.transpose(3, 1, 2, 0).reshape(kernel // 2 * outputs, 2, inputs)


def heads(weight: np.ndarray, n_heads: int, rotary: bool = False) -> np.ndarray:
    """Rows c = d * H + h of the reference sorted by head; for rotary, even channels first."""
    weight = weight.reshape(-1, n_heads, *weight.shape[1:]).swapaxes(0, 1)
    if rotary:
        weight = halves(weight, axis=1)
    return weight.reshape(-1, *weight.shape[2:])


def halves(x: np.ndarray, axis: int) -> np.ndarray:
    order = np.arange(x.shape[axis])
    return x.take(np.concatenate([order[::2], order[1::2]]), axis)


def self_attention(module: dit.SelfAttention, has) -> list[Rule]:
    h = module._shape[0]
    names = ("wq.weight", "wk.weight", "wv.weight")

    def fuse(q, k, v):
        return (np.concatenate([heads(q, h, True), heads(k, h, True), heads(v, h)]),)

    norms = [
        Rule((name,), (name,), lambda weight: (halves(weight, axis=0),))
        for name in ("q_norm.weight", "k_norm.weight")
    ]
    return [Rule(("wqkv.weight",), names, fuse), *norms]


def cross_attention(module: dit.CrossAttention, has) -> list[Rule]:
    h = module._shape[0]
    return [
        Rule(("wq.weight",), ("wq.weight",), lambda q: (heads(q, h),)),
        Rule(
            ("wkv.weight",),
            ("wk.weight", "wv.weight"),
            lambda k, v: (np.concatenate([heads(k, h), heads(v, h)]),),
        ),
    ]


def swiglu(module: dit.SwiGLU, has) -> list[Rule]:
    sources = ("w1.weight", "w3.weight")
    return [Rule(("w13.weight",), sources, lambda a, b: (np.concatenate([a, b]),))]


def input_projection(module: network.InputProjection, has) -> list[Rule]:
    """Columns of the reference: noisy 2C, zeros 2C (dropped), the mixture's latents twice."""
    c = module.mixture.weight.shape[1]
    parameters = ("noisy.weight", "mixture.weight", "mixture.bias")
    return [
        Rule(
            parameters,
            ("weight", "bias"),
            lambda w, b: (w[:, : 2 * c], added(w[:, 4 * c : 5 * c], w[:, 5 * c :]), b),
        )
    ]


def bottleneck(module: dacvae.Bottleneck, has) -> list[Rule]:
    """Convolutions of one tap; of in_proj only the mean half, since nothing is ever sampled."""
    c = module.in_proj.weight.shape[0]
    return [
        convolution(has, lambda w: w[:c, :, 0], "in_proj"),
        Rule(("in_proj.bias",), ("in_proj.bias",), lambda b: (b[:c],)),
        convolution(has, lambda w: w[:, :, 0], "out_proj"),
    ]


def lstm(module: watermark.LSTM, has) -> list[Rule]:
    """torch.nn.LSTM keeps its layers in one module and two biases that are only ever added."""
    rules = []
    for i in range(len(module.layers)):
        sources = (f"lstm.{name}_l{i}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        parameters = tuple(f"layers.{i}.{name}" for name in ("Wx", "Wh", "bias"))
        rules.append(Rule(parameters, tuple(sources), lambda x, h, a, b: (x, h, added(a, b))))
    return rules


def absent_video(module: network.AbsentVideo, has) -> list[Rule]:
    """What the reference's alignment makes of a vector of zeros; see `AlignModalities`."""

    def make(bias, weight, shift, gate):
        wide = bias.astype(np.float64)
        normed = (wide - wide.mean()) / np.sqrt(wide.var() + 1e-5)
        return ((np.tanh(gate) * (normed * weight + shift)).astype(np.float32),)

    sources = ("conv.bias", "layer_norm.weight", "layer_norm.bias", "gate")
    return [Rule(("constant",), sources, make)]


def packed(prefix: str = "") -> tuple[str, str]:
    """The weight and the bias in which torch.nn.MultiheadAttention packs q, k and v."""
    return f"{prefix}in_proj_weight", f"{prefix}in_proj_bias"


def vision_attention(module: vision.SelfAttention, has) -> list[Rule]:
    def arrange(packed):
        q, k, v = (part.reshape(module._heads, -1, *part.shape[1:]) for part in np.split(packed, 3))
        return (np.concatenate([halves(q, 1), halves(k, 1), v]).reshape(packed.shape),)

    return [
        Rule((f"qkv.{key}",), (source,), arrange)
        for key, source in zip(("weight", "bias"), packed(), strict=True)
    ]


def attention_pooling(module: vision.AttentionPooling, has) -> list[Rule]:
    def cut(packed):
        return tuple(np.split(packed, [len(packed) // 3]))

    return [
        Rule((f"q.{key}", f"kv.{key}"), (source,), cut)
        for key, source in zip(("weight", "bias"), packed("attn."), strict=True)
    ]


def vision_encoder(module: vision.VisionEncoder, has) -> list[Rule]:
    """The convolution over patches becomes a product; `proj` is a bare matrix, used as x @ W."""
    return [
        Rule(("conv1.weight",), ("conv1.weight",), lambda w: (w.reshape(len(w), -1),)),
        Rule(("proj.weight",), ("proj",), lambda w: (w.T,)),
    ]


def tower(projection: str) -> Callable[..., list[Rule]]:
    """ImageBind's, whose convolution over patches becomes a product."""
    stem = f"rgbt_stem.{projection}.weight"
    return lambda module, has: [
        Rule(("class_token",), ("cls_token",), lambda token: (token,)),
        Rule(("positions",), ("pos_embedding_helper.pos_embed",), lambda table: (table,)),
        Rule(("stem.weight",), (stem,), lambda w: (w.reshape(len(w), -1),)),
    ]


def position_conv(module: aesthetics.PositionConv, has) -> list[Rule]:
    """Its weight norm has a factor for each tap."""
    sources = ("weight_g", "weight_v")
    return [Rule(("weight",), sources, lambda g, v: (fold(g, v, 2).transpose(0, 2, 1),))]


def packed_attention(module: imagebind_network.Attention, has) -> list[Rule]:
    return [
        Rule((f"qkv.{key}",), (source,), lambda packed: (packed,))
        for key, source in zip(("weight", "bias"), packed(), strict=True)
    ]


SPECIAL = {
    aesthetics.Convolution: lambda _, has: [convolution(has, lambda w: w.transpose(0, 2, 1))],
    aesthetics.PositionConv: position_conv,
    conv.Conv1d: lambda _, has: [convolution(has, lambda w: w.transpose(0, 2, 1))],
    conv.StridedConv1d: lambda _, has: [convolution(has, strided)],
    conv.TransposedConv1d: lambda _, has: [convolution(has, transposed)],
    dacvae.Snake: lambda _, has: [Rule(("alpha",), ("alpha",), lambda a: (a[0, :, 0],))],
    dacvae.Bottleneck: bottleneck,
    watermark.LSTM: lstm,
    dit.SelfAttention: self_attention,
    dit.CrossAttention: cross_attention,
    dit.SwiGLU: swiglu,
    network.InputProjection: input_projection,
    htsat.PatchEmbed: lambda _, has: [
        Rule(("proj.weight",), ("proj.weight",), lambda w: (w.reshape(len(w), -1),))
    ],
    network.AlignModalities: lambda _, has: [
        Rule(("conv.weight",), ("conv.weight",), lambda w: (w[:, :, 0],))
    ],
    network.AbsentVideo: absent_video,
    vision.SelfAttention: vision_attention,
    vision.AttentionPooling: attention_pooling,
    vision.VisionEncoder: vision_encoder,
    imagebind_network.Attention: packed_attention,
    imagebind_network.BiasedAttention: packed_attention,
    imagebind_network.AudioTower: tower("proj"),
    imagebind_network.VisionTower: tower("proj.1"),
}
