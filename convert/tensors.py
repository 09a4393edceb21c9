"""A checkpoint's tensors as those of our model, one after the other."""

from collections.abc import Iterator

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from tqdm import tqdm

from mlx_sam_audio.errors import SAMAudioError
from mlx_sam_audio.models import quantise

from .rules import Checkpoint, Rule, join, plan

VISION = "vision_encoder."  # goes to files of its own, which a text prompt never reads


class Tensors:
    """All of a model's, planned; raises SAMAudioError if the checkpoint holds others.

    size: bytes of all; sees: whether a vision encoder is among them.
    """

    def __init__(self, checkpoint: Checkpoint):
        network, config = checkpoint.network, checkpoint.config  # lazy: only shapes are used
        self._dtype, self._packed = getattr(mx, config.dtype), set()
        self._quantisation = quantisation = getattr(config, "quantisation", None)
        self._shapes = {name: value.shape for name, value in tree_flatten(network.parameters())}
        self.sees = any(name.startswith(VISION) for name in self._shapes)
        if quantisation:
            layers = quantise.layers(network, quantisation.group_size)
            self._packed = {f"{name}.weight" for name in layers}
        self.size = sum(map(self._bytes, self._shapes))
        self._planned = []
        for part in checkpoint.parts:
            module = network.pop(part.prefix) if part.prefix else network
            rules = plan(module, part.source_name, part.weights.shapes, part.left_out)
            self._planned.append((rules, part.weights, part.prefix))

    def _bytes(self, name: str) -> float:
        packed = name in self._packed
        size = self._quantisation.bits / 8 if packed else self._dtype.size
        return int(np.prod(self._shapes[name])) * size

    def read(self, seeing: bool = False) -> Iterator[tuple[str, mx.array]]:
        """Names and tensors of the vision encoder, or of all else."""
        for rules, weights, prefix in self._planned:
            rules = [rule for rule in rules if rule.parameters[0].startswith(VISION) == seeing]
            for rule in tqdm(rules, desc=prefix or "checkpoint", disable=None, leave=False):
                for name, tensor in self._made(rule, weights, prefix):
                    if name in self._packed:
                        yield from quantise.tensors(name, tensor, self._quantisation).items()
                    else:
                        yield name.removeprefix(VISION), tensor

    def _made(self, rule: Rule, weights, prefix: str) -> Iterator[tuple[str, mx.array]]:
        """Our parameters of one rule."""
        tensors = list(map(weights.read, rule.sources))
        try:
            values = rule.make(*tensors)
        except (ValueError, IndexError, TypeError) as error:  # NumPy's, of unexpected shapes
            shapes = ", ".join(str(tensor.shape) for tensor in tensors)
            raise SAMAudioError(
                f"{', '.join(rule.sources)} do not have the shapes of such weights: {shapes}"
            ) from error
        for name, value in zip(rule.parameters, values, strict=True):
            name = join(prefix, name)
            if value.shape != self._shapes[name]:
                raise SAMAudioError(
                    f"{', '.join(rule.sources)} give {name} the shape {value.shape} instead of "
                    f"{self._shapes[name]}"
                )
            tensor = mx.array(np.ascontiguousarray(value)).astype(self._dtype)
            if not mx.isfinite(tensor).all().item():
                dtype = str(self._dtype).removeprefix("mlx.core.")
                raise SAMAudioError(f"{name} holds values that are not finite in {dtype}")
            yield name, tensor
