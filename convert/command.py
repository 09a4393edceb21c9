"""What `python -m convert` does."""

import shutil
from pathlib import Path
from types import ModuleType

from mlx_sam_audio import __version__
from mlx_sam_audio.command.terminal import Parser
from mlx_sam_audio.errors import SAMAudioError, plain
from mlx_sam_audio.loading import manifest
from mlx_sam_audio.loading.store import expanded, stamps, store
from mlx_sam_audio.loading.strict_json import read_json
from mlx_sam_audio.models.config import DTYPES
from mlx_sam_audio.models.quantise import QuantisationConfig

from . import clap, imagebind, judge, pe_a_frame, sam_audio
from .folder import check_space, check_target, whole, write_json, write_weights
from .sources import Source
from .tensors import Tensors

KINDS = (sam_audio, pe_a_frame, judge, clap, imagebind)
REPOS = {name: place for kind in KINDS for name, place in kind.REPOS.items()}


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
    repo, branch = REPOS.get(hf_path, (hf_path, dict(REPOS.values()).get(hf_path)))
    source = Source.find(repo, ["config.json", "LICENSE*"], revision or branch, known=REPOS)
    target = expanded(mlx_path or store() / local_name(source))
    check_target(target, force, [source.folder])
    kind = recognise(source)
    given = {} if text_encoder is None else {"text_encoder": text_encoder}
    if given and kind is not sam_audio:
        raise SAMAudioError(f"{repo} holds its own text encoder: leave out --text-encoder")
    if quantisation is not None:
        if kind is not sam_audio:
            raise SAMAudioError(f"{repo} is converted without -q")
        given["quantisation"] = quantisation
    checkpoint = kind.checkpoint(source, dtype, **given)
    tensors = Tensors(checkpoint, dtype, quantisation)
    copies = [*checkpoint.copies, *filter(Path.is_file, source.folder.glob("LICENSE*"))]
    sources = {source.folder, *(path.parent for path in checkpoint.copies)}
    with whole(target, force, sources) as folder:
        check_space(folder, tensors.size)
        write_weights(folder, "model", tensors.read())
        if tensors.sees:
            write_weights(folder, "vision", tensors.read(seeing=True))
        for path in copies:
            shutil.copyfile(path, folder / path.name)
        converter = {"converter": f"mlx-sam-audio {__version__}"}
        write_json(folder / "source.json", {**converter, **checkpoint.origin})
        write_json(folder / "config.json", checkpoint.config.to_dict())
        manifest.write(folder)
    manifest.remember(target, manifest.read(target), stamps())
    return target


def local_name(source: Source) -> str:
    names = {repo: name for name, (repo, _) in REPOS.items()}
    if source.repo in names:
        return names[source.repo]
    place = source.repo or str(source.folder.resolve())
    name = place.rsplit("/", 1)[-1].removeprefix("sam-audio-")
    if not name or name.startswith("."):
        raise SAMAudioError(f"{place} gives the model no name: choose an --mlx-path")
    return name


def recognise(source: Source) -> ModuleType:
    """Which of the models that we know a checkpoint is, by its configuration or its file."""
    if (source.folder / imagebind.WEIGHTS).is_file():
        return imagebind
    if clap.recognises(source):
        return clap
    path = source.file("config.json")
    values = read_json(path)
    for kind in KINDS:
        if kind.MARKS & set(values):
            return kind
    known = ", ".join(kind.NAME for kind in KINDS)
    raise SAMAudioError(f"{path} describes no checkpoint that can be converted: {known}")


def parser() -> Parser:
    parser = Parser(prog="python -m convert", description="Convert a checkpoint to MLX.")
    parser.add_argument(
        "--hf-path",
        required=True,
        help=f"a folder with the weights and config.json, a hub repo, or {', '.join(REPOS)}",
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
    parser.add_argument("--text-encoder", help="T5 for SAM-Audio: a folder or hub repo")
    parser.add_argument("--revision", help="the hub repo's branch, tag or commit")
    parser.add_argument("--force", action="store_true", help="replace an existing folder")
    return parser


def run(arguments: list[str]) -> None:
    options = vars(parser().parse_args(arguments))
    wanted, bits, group_size = map(options.pop, ("quantize", "q_bits", "q_group_size"))
    if not wanted and (bits or group_size):
        raise SAMAudioError("--q-bits and --q-group-size do nothing without -q")
    quantisation = QuantisationConfig(bits or 4, group_size or 64) if wanted else None
    folder = convert(**options, quantisation=quantisation)
    print(f"wrote {plain(folder)}")
