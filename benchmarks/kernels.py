"""Kernels of an evaluation, of encoding and of decoding, as Metal runs them.

python -m benchmarks.kernels --dtype float16
python -m benchmarks.kernels --against mlx-audio    the other port, if it can be imported

They are counted in MLX's graph, at the published sizes, on any machine: nothing is computed. Norms
and attention count as one each, and what only views an array otherwise as none.
"""

import io
import re
from collections import Counter
from collections.abc import Iterator
from unittest import mock

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from benchmarks import models, report
from benchmarks.speed import DTYPES, FRAMES, TOKENS, MLXAudio
from mlx_sam_audio.models import cpu
from mlx_sam_audio.models.dacvae import Snake

VIEWS = "Broadcast ExpandDims Flatten Reshape Slice Split Squeeze StopGradient Transpose Unflatten"
VIEWS = {*VIEWS.split(), "View"}
ONE_KERNEL = "norms and attention"
SECOND = 25  # frames


def kernels(*outputs: mx.array) -> Counter:
    """How many kernels of each kind make the outputs."""
    graph = io.StringIO()
    mx.export_to_dot(graph, *outputs)
    names = re.findall(r'\d \[label ="(\w+)"', graph.getvalue())
    kinds = ("fused" if name.startswith("Compiled") else name for name in names)
    return Counter(ONE_KERNEL if kind == "Depends" else kind for kind in kinds if kind not in VIEWS)


def one_kernel():
    """Marks norms and attention in the graph, where MLX's CPU backend would write them out."""

    def norm(x, *_, **__):
        return mx.depends([x], [x])[0]

    def attention(q, k, v, **_):
        return mx.depends([q], [k, v])[0]

    return mock.patch.multiple(
        mx.fast, rms_norm=norm, layer_norm=norm, scaled_dot_product_attention=attention
    )


def empty(network: nn.Module) -> None:
    """Makes every parameter one number, seen in its shape."""
    network.update(
        tree_map(lambda p: mx.broadcast_to(mx.zeros((), p.dtype), p.shape), network.parameters())
    )
    mx.eval(network.parameters())


def made(*shape: int, dtype: mx.Dtype = mx.float32) -> mx.array:
    """An input, no part of the graph."""
    value = mx.zeros(shape, dtype)
    mx.eval(value)
    return value


def ours(size: str, dtype: str) -> Iterator[tuple[str, Counter]]:
    model = models.build(size, dtype)
    network, codec = model.network, model.network.audio_codec
    empty(network)
    text, mask = made(1, TOKENS, 768), made(1, TOKENS, dtype=mx.bool_)
    latents = made(1, FRAMES, 128)
    condition = network.condition(latents, text, mask, made(1, FRAMES, dtype=mx.int32))
    moment = network.moment(made(1), condition.text)
    mx.eval(condition, moment)
    yield "evaluation", kernels(model.velocity(made(1, FRAMES, 256), moment, condition))
    for module in codec.modules():
        if isinstance(module, Snake):  # what is made of a weight when it is first used
            mx.eval(module.factors(module.alpha))
    yield "encode", kernels(codec.encode(made(1, FRAMES * codec.hop_length)))
    yield "decode", kernels(codec.decode_clean(latents))
    audio, message = made(1, SECOND * codec.hop_length), made(1, 16, dtype=mx.int32)
    yield "watermark of 1 s", kernels(codec.mark(audio, message)[0])


def mlx_audio(size: str, dtype: str) -> Iterator[tuple[str, Counter]]:
    peer = MLXAudio(size, dtype, None, FRAMES / SECOND)
    empty(peer.dit)
    empty(peer.codec)
    x, memory = (made(1, count, peer.dim, dtype=peer.kind) for count in (FRAMES, TOKENS))
    yield "evaluation", kernels(peer.dit(x, made(1), memory=memory))
    yield "encode", kernels(peer.codec.encode(made(1, FRAMES * 1920, 1, dtype=peer.kind)))
    # its decoder always marks
    yield "decode", kernels(peer.codec.decode(made(1, 128, FRAMES, dtype=peer.kind)))


SUBJECTS = {"ours": ours, "mlx-audio": mlx_audio}


def count(subject: str, size: str, dtype: str) -> dict[str, Counter]:
    """Kernels of each stage, with what Metal runs."""
    with cpu.forced(False), one_kernel():
        return dict(SUBJECTS[subject](size, dtype))


def main(arguments: list[str]) -> None:
    parser = report.parser(__doc__)
    sizes = list(models.SIZES)
    parser.add_argument("--sizes", nargs="+", choices=sizes, default=sizes, help="of the model")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the weights")
    parser.add_argument("--against", choices=("mlx-audio",), help="another package")
    options = parser.parse_args(arguments)
    names = ["ours"] + ([options.against] if options.against else [])
    report.head("size", "stage", *names)
    rows = {}
    for size in options.sizes:
        try:
            rows[size] = {name: count(name, size, options.dtype) for name in names}
        except ImportError as error:
            raise SystemExit(f"error: {options.against} cannot be set up here: {error}") from None
        for stage in rows[size]["ours"]:
            counts = [rows[size][name].get(stage) for name in names]
            cells = ["" if kinds is None else f"{kinds.total()}" for kinds in counts]
            report.line(size, stage, *cells)
    report.write(options, rows)


if __name__ == "__main__":
    report.run(main)
