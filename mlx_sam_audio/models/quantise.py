"""Weights of few bits, as mlx-lm writes them: `weight` packed, `scales` and `biases` by group.

The blocks of the transformer and T5 are quantised, which hold nearly all weights. The codec and
the layers between the networks are not: they are small, and errors there are heard.
"""

from dataclasses import dataclass
from typing import Literal

import mlx.core as mx
import mlx.nn as nn


@dataclass(frozen=True)
class QuantisationConfig:
    bits: Literal[4, 6, 8]
    group_size: Literal[32, 64, 128]  # weights that share a scale and a bias


def layers(network: nn.Module, group_size: int) -> list[str]:
    """Names of the layers to quantise: those whose rows are whole groups."""
    return [
        name
        for name, module in network.named_modules()
        if name.startswith(("transformer.layers.", "text_encoder."))
        and isinstance(module, (nn.Linear, nn.Embedding))
        and module.weight.shape[-1] % group_size == 0
    ]


def quantise(network: nn.Module, config: QuantisationConfig) -> None:
    """Replace those layers by quantised ones (lazily, so that weights loaded next cost nothing)."""
    chosen = set(layers(network, config.group_size))
    nn.quantize(
        network, config.group_size, config.bits, class_predicate=lambda name, _: name in chosen
    )


def tensors(name: str, weight: mx.array, config: QuantisationConfig) -> dict[str, mx.array]:
    """What takes the place of the parameter `name`, a layer's weight."""
    layer = name.removesuffix(".weight")
    parts = mx.quantize(weight, config.group_size, config.bits)
    keys = (name, f"{layer}.scales", f"{layer}.biases")
    return dict(zip(keys, parts, strict=True))
