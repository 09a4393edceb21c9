"""python -m convert --hf-path facebook/sam-audio-small --mlx-path out/"""

import itertools
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from tqdm import tqdm

from mlx_sam_audio import __version__, quantise
from mlx_sam_audio.config import DTYPES, QuantisationConfig
from mlx_sam_audio.errors import Parser, SAMAudioError
from mlx_sam_audio.load import SIZES, store
from mlx_sam_audio.network import Network

from . import sam_audio
from .folder import check_space, whole, write_json, write_weights
from .rules import Rule, join, plan
from .sources import SafetensorsWeights, Source, TorchWeights


def convert(
    hf_path: str,
    mlx_path: str | Path | None = None,
    dtype: str = "float32",
    text_encoder: str | None = None,
    revision: str | None = None,
    force: bool = False,
    quantisation: QuantisationConfig | None = None,
) -> Path:
    """Convert a checkpoint and return the new folder. Raises SAMAudioError."""
    repo = f"facebook/sam-audio-{hf_path}" if hf_path in SIZES else hf_path
    source = Source.find(repo, ["config.json", "checkpoint.pt", "LICENSE*"], revision)
    target = Path(mlx_path).expanduser() if mlx_path else store() / local_name(source)
    if target.exists() and not force:
        raise SAMAudioError(f"{target} exists already: choose another --mlx-path, or add --force")
    text = find_text_encoder(source, text_encoder)

    config = sam_audio.config(source.folder, text.folder, dtype, quantisation)
    network = Network(config)  # lazy: only its shapes are used
    shapes = {name: value.shape for name, value in tree_flatten(network.parameters())}
    packed = (
        {f"{name}.weight" for name in quantise.layers(network, quantisation.group_size)}
        if quantisation
        else set()
    )
    size = sum(
        int(np.prod(shape)) * (quantisation.bits / 8 if name in packed else getattr(mx, dtype).size)
        for name, shape in shapes.items()
    )
    checkpoint = TorchWeights(source.file("checkpoint.pt"))
    text_weights = SafetensorsWeights(text.file("model.safetensors"))
    stages = len(config.codec.decoder_rates)
    text_rules = plan(
        network.text_encoder,
        sam_audio.text_source_name,
        text_weights.shapes,
        sam_audio.TEXT_LEFT_OUT,
    )
    del network["text_encoder"]
    rules = plan(
        network,
        lambda name: sam_audio.source_name(name, stages),
        checkpoint.shapes,
        sam_audio.LEFT_OUT,
    )

    def tensors() -> Iterator[tuple[str, mx.array]]:
        for name, tensor in itertools.chain(
            read(rules, checkpoint, "", shapes, dtype),
            read(text_rules, text_weights, "text_encoder", shapes, dtype),
        ):
            if name in packed:
                yield from quantise.tensors(name, tensor, quantisation).items()
            else:
                yield name, tensor

    with whole(target, force) as folder:
        check_space(folder, size)
        write_weights(folder, tensors())
        shutil.copyfile(text.file("spiece.model"), folder / "spiece.model")
        for licence in source.folder.glob("LICENSE*"):
            shutil.copyfile(licence, folder / licence.name)
        files = [source.file("checkpoint.pt"), source.file("config.json")]
        text_files = [text.file("model.safetensors"), text.file("spiece.model")]
        provenance = {
            "converter": f"mlx-sam-audio {__version__}",
            "checkpoint": source.describe(*files),
            "text_encoder": text.describe(*text_files),
        }
        write_json(folder / "source.json", provenance)
        write_json(folder / "config.json", config.to_dict())
    return target


def local_name(source: Source) -> str:
    name = (source.repo or str(source.folder.resolve())).rsplit("/", 1)[-1]
    return name.removeprefix("sam-audio-")


def find_text_encoder(source: Source, given: str | None) -> Source:
    """T5 is not in SAM-Audio's checkpoint: `given`, a folder inside the source, or the hub's."""
    patterns = ["config.json", "model.safetensors", "spiece.model"]
    if given is not None:
        return Source.find(given, patterns)
    values = sam_audio.read_json(source.file("config.json")).get("text_encoder") or {}
    name = values.get("name", sam_audio.TEXT["name"])
    inside = source.folder / name
    return Source.find(str(inside) if inside.is_dir() else name, patterns)


def read(
    rules: list[Rule], weights, prefix: str, shapes: dict[str, tuple], dtype: str
) -> Iterator[tuple[str, mx.array]]:
    """Our parameters one after the other, in `dtype`."""
    for rule in tqdm(rules, desc=prefix or "checkpoint", disable=None, leave=False):
        values = rule.make(*map(weights.read, rule.sources))
        for name, value in zip(rule.parameters, values, strict=True):
            name = join(prefix, name)
            if value.shape != shapes[name]:
                raise SAMAudioError(
                    f"{', '.join(rule.sources)} give {name} the shape {value.shape} instead of "
                    f"{shapes[name]}"
                )
            tensor = mx.array(np.ascontiguousarray(value)).astype(getattr(mx, dtype))
            if not mx.isfinite(tensor).all().item():
                raise SAMAudioError(f"{name} holds values that are not finite in {dtype}")
            yield name, tensor


def parser() -> Parser:
    parser = Parser(prog="python -m convert", description="Convert a SAM-Audio checkpoint to MLX.")
    parser.add_argument(
        "--hf-path",
        required=True,
        help=f"a folder with config.json and checkpoint.pt, a hub repo, or {', '.join(SIZES)}",
    )
    parser.add_argument(
        "--mlx-path", help=f"the folder to write (default: {store()}/<name>, found by that name)"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument(
        "-q", "--quantize", action="store_true", help="write transformer and T5 in few bits"
    )
    parser.add_argument("--q-bits", type=int, choices=(4, 6, 8), help="bits of a weight (4)")
    parser.add_argument(
        "--q-group-size", type=int, choices=(32, 64, 128), help="weights that share a scale (64)"
    )
    parser.add_argument("--text-encoder", help="a folder or hub repo with the T5 encoder's weights")
    parser.add_argument("--revision", help="the hub repo's branch, tag or commit")
    parser.add_argument("--force", action="store_true", help="replace an existing folder")
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = vars(parser().parse_args(arguments))
    wanted, bits, group_size = map(options.pop, ("quantize", "q_bits", "q_group_size"))
    try:
        if not wanted and (bits or group_size):
            raise SAMAudioError("--q-bits and --q-group-size do nothing without -q")
        quantisation = QuantisationConfig(bits or 4, group_size or 64) if wanted else None
        folder = convert(**options, quantisation=quantisation)
    except SAMAudioError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
