"""Every weight of a network in its place, or an error."""

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from safetensors import SafetensorError, safe_open

from ..errors import SAMAudioError
from ..models import cpu

TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "uint32": "U32"}


def fill(network: nn.Module, folder: Path, dtype: str, name: str = "model") -> nn.Module:
    """Give every parameter its tensor from the files NAME*.safetensors.

    dtype: of all tensors but packed ones. Raises SAMAudioError that names the first keys at fault.
    Weights are read when first used, in whatever thread that is. On the CPU they are widened to
    float32, since half-precision products are scalar loops there.
    """
    reading = mx.new_thread_unsafe_stream(mx.cpu)  # the default one is of this thread alone
    files = sorted(folder.glob(f"{name}*.safetensors"))
    if not files:
        raise SAMAudioError(f"{folder} holds no {name}*.safetensors")
    weights, found = {}, {}
    for file in files:
        described = header(file)
        complain(f"{folder} holds twice", sorted(set(described) & set(found)))
        found.update(described)
        try:
            weights.update(mx.load(str(file), stream=reading))
        except (RuntimeError, ValueError) as error:
            raise SAMAudioError(f"cannot read {file}: {error}") from None
    parameters = dict(tree_flatten(network.parameters()))
    wanted = {
        name: (TYPES["uint32" if value.dtype == mx.uint32 else dtype], value.shape)
        for name, value in parameters.items()
    }
    complain(f"{folder} lacks", sorted(set(wanted) - set(found)))
    complain(f"{folder} holds unknown", sorted(set(found) - set(wanted)))
    for problem, i in (("mistyped", 0), ("misshapen", 1)):
        wrong = [name for name, value in wanted.items() if found[name][i] != value[i]]
        wrong = [f"{name} {found[name][i]} instead of {wanted[name][i]}" for name in wrong]
        complain(f"{folder} holds {problem}", wrong)
    network.load_weights(list(weights.items()), strict=True)
    if cpu.used():
        with mx.stream(reading):
            network.set_dtype(mx.float32)
    return network.eval()


def header(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of each tensor in a .safetensors file, which has neither holes nor more."""
    try:
        with safe_open(file, framework="numpy") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            return {name: (s.get_dtype(), tuple(s.get_shape())) for name, s in slices.items()}
    except (SafetensorError, OSError) as error:
        raise SAMAudioError(f"cannot read {file}: {error}") from None


def complain(problem: str, keys: list[str]) -> None:
    if keys:
        more = f" and {len(keys) - 10} more" if len(keys) > 10 else ""
        raise SAMAudioError(f"{problem} {len(keys)} tensors: {', '.join(keys[:10])}{more}")
