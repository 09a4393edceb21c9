"""What `python -m convert` does."""

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from mlx_sam_audio import __version__
from mlx_sam_audio.command.terminal import Parser, say
from mlx_sam_audio.errors import SAMAudioError
from mlx_sam_audio.loading import manifest
from mlx_sam_audio.loading.store import HUB, expanded, local, shelved, stamps, store
from mlx_sam_audio.loading.strict_json import read_json
from mlx_sam_audio.models.config import DTYPES, KINDS, is_ours
from mlx_sam_audio.models.quantise import QuantisationConfig

from . import aesthetics, clap, imagebind, judge, known, pe_a_frame, sam_audio, upload, verify
from .folder import check_space, check_target, whole, write_json, write_weights
from .sources import Source
from .tensors import Tensors

CHECKPOINTS = (sam_audio, pe_a_frame, judge, clap, imagebind, aesthetics)
REPOS = {name: place for kind in CHECKPOINTS for name, place in kind.REPOS.items()}


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a checkpoint is converted. dtype: the source's unless given. Places are a folder, a file
    or a hub repo."""

    dtype: str | None = None
    quantisation: QuantisationConfig | None = None
    text_encoder: str | None = None  # where T5 lies
    codec_from: str | None = None  # where the codec lies, or one like it, to compare
    video_from: str | None = None  # where the video's alignment and encoder lie
    watermark_from: str | None = None  # where the watermark lies
    revision: str | None = None
    config: str = "config.json"
    force: bool = False

    def given(self, kind: ModuleType, source: Source) -> dict:
        """What only SAM-Audio takes."""
        places = {name: getattr(self, f"{name}_from") for name in ("codec", "video", "watermark")}
        places = {name: place for name, place in places.items() if place is not None}
        given = {"--text-encoder": self.text_encoder, "-q": self.quantisation}
        named = [option for option, value in given.items() if value is not None]
        named += [f"--{name}-from" for name in places]
        if named and kind is not sam_audio:
            raise SAMAudioError(f"{source} is {kind.NAME}: leave out {', '.join(named)}")
        if kind is not sam_audio:
            return {}
        return dict(text_encoder=self.text_encoder, quantisation=self.quantisation, places=places)


def convert(
    hf_path: str,
    mlx_path: str | Path | None = None,
    *,
    wanted: str | None = None,  # the only `model_type` that will do
    tell: Callable[[str], object] = lambda line: None,
    **options: Any,
) -> Path:
    """Convert a checkpoint, by `Options`, and return the new folder. Raises SAMAudioError."""
    asked = Options(**options)
    repo, branch = REPOS.get(hf_path, (hf_path, dict(REPOS.values()).get(hf_path)))
    source = Source.find(repo, asked.revision or branch, known=REPOS)
    source = replace(source, config=asked.config)
    target = expanded(mlx_path or store() / local_name(source))
    check_target(target, asked.force, [source.folder])
    if source.remote and is_converted(source):
        if replace(asked, revision=None, force=False) != Options():
            raise SAMAudioError(f"{source} is converted already: leave out what changes it")
        return adopt(source, target, asked.force, wanted)
    kind = recognise(source)
    check_wanted(source, kind.MODEL_TYPE, wanted)
    checkpoint = kind.checkpoint(source, asked.dtype, **asked.given(kind, source))
    tensors = Tensors(checkpoint)
    licences = source.licences
    if not licences and kind is sam_audio:
        licences = [known.LICENSE]
    sources = {source.folder, *(path.parent for path in checkpoint.copies)}
    with whole(target, asked.force, sources) as folder:
        check_space(folder, tensors.size)
        write_weights(folder, "model", tensors.read())
        if tensors.sees:
            write_weights(folder, "vision", tensors.read(seeing=True))
        for path in (*checkpoint.copies, *licences):
            shutil.copyfile(path, folder / path.name)
        origin = checkpoint.origin()
        converter = {"converter": f"mlx-sam-audio {__version__}"}
        write_json(folder / "source.json", {**converter, **origin})
        write_json(folder / "config.json", checkpoint.config.to_dict())
        manifest.write(folder)
    manifest.remember(target, manifest.read(target), stamps())
    if kind is sam_audio:
        for line in sam_audio.told(source, checkpoint.config, origin):
            tell(line)
    tell(f"wrote {target}")
    return target


def check_wanted(source: Source, found: str, wanted: str | None) -> None:
    if wanted not in (None, found):
        raise SAMAudioError(f"{source} holds {KINDS[found]}, where {KINDS[wanted]} is needed")


def is_converted(source: Source) -> bool:
    return source.config in source.sizes and is_ours(read_json(source.small(source.config)))


def adopt(source: Source, target: Path, force: bool, wanted: str | None) -> Path:
    """A converted model of the hub: the files that its manifest names, as it says they are."""
    check_wanted(source, read_json(source.small("config.json"))["model_type"], wanted)
    source.small(manifest.NAME)
    entries = manifest.read(source.folder)
    for name, entry in entries.items():
        if source.sizes.get(name) != entry.bytes:
            raise SAMAudioError(f"{source} does not hold {name} as its {manifest.NAME} says")
    with whole(target, force, [source.folder]) as folder:
        for name in (*entries, manifest.NAME):
            path = source.file(name).resolve()
            try:
                os.link(path, folder / name)
            except OSError:  # another disk
                shutil.copyfile(path, folder / name)
        for name, entry in entries.items():
            manifest.compare(folder / name, entry, whole=True)
        told = {"repo": source.repo, "revision": source.remote.commit, "asked": source.remote.asked}
        write_json(folder / HUB, told)
    manifest.remember(target, entries, stamps())
    return target


def local_name(source: Source) -> str:
    """In the store: a short one for what we know, else owner--name, or a folder's own."""
    file = [Path(source.named).stem] if source.named else []
    if source.repo:
        return "--".join([shelved(source.repo), *file])
    place = source.folder.resolve()
    name = place.name.removeprefix("sam-audio-")
    if not name or name.startswith("."):
        raise SAMAudioError(f"{place} gives the model no name: choose an --mlx-path")
    return "--".join([name, *file])


def recognise(source: Source) -> ModuleType:
    """Which of the models that we know a checkpoint is, by its configuration or its file."""
    if (source.folder / imagebind.WEIGHTS).is_file():
        return imagebind
    if clap.recognises(source):
        return clap
    values = read_json(source.small(source.config))
    if is_ours(values):
        raise SAMAudioError(f"{source} is converted already: use it as it is, with -m")
    for kind in CHECKPOINTS:
        if kind.MARKS & set(values):
            return kind
    known = ", ".join(kind.NAME for kind in CHECKPOINTS)
    raise SAMAudioError(
        f"{source}/{source.config} describes no checkpoint that can be converted: {known}"
    )


def parser() -> Parser:
    parser = Parser(prog="python -m convert", description="Convert a checkpoint to MLX.")
    place = parser.add_mutually_exclusive_group(required=True)
    add = place.add_argument
    add("--hf-path", metavar="PLACE",
        help=f"a folder with the weights and config.json, a hub repo, owner/name, or "
        f"owner/name@revision/FILE, or {', '.join(REPOS)}")  # fmt: skip
    add("--verify", metavar="FOLDER", help="check a converted model, and write nothing")
    add = parser.add_argument
    add("--mlx-path", metavar="FOLDER",
        help=f"the folder to write (default: {store()}/NAME, found by that name)")  # fmt: skip
    add("--dtype", choices=DTYPES, help="of the weights (the source's)")
    add("-q", "--quantize", action="store_true", help="write transformer and T5 in few bits")
    add("--q-bits", type=int, choices=(4, 6, 8), help="bits of a weight (4)")
    add("--q-group-size", type=int, choices=(32, 64, 128),
        help="weights that share a scale (64)")  # fmt: skip
    add("--text-encoder", metavar="PLACE", help="T5 for SAM-Audio: a folder or hub repo")
    add("--codec-from", metavar="PLACE",
        help="take the codec from there, or compare it with that one")  # fmt: skip
    add("--video-from", metavar="PLACE",
        help="take the video's alignment, and its encoder if it is there, from there")  # fmt: skip
    add("--watermark-from", metavar="PLACE", help="take the codec's watermark from there")
    add("--revision", help="the hub repo's branch, tag or commit")
    add("--config", metavar="FILE", default=Options.config,
        help="the configuration, where there are several (%(default)s)")  # fmt: skip
    add("--force", action="store_true", help="replace an existing folder")
    add("--upload-repo", metavar="NAME",
        help="then put the converted model on the hub, after a question")  # fmt: skip
    return parser


def run(arguments: list[str]) -> None:
    options = vars(parser().parse_args(arguments))
    wanted, bits, group_size = map(options.pop, ("quantize", "q_bits", "q_group_size"))
    if not wanted and (bits or group_size):
        raise SAMAudioError("--q-bits and --q-group-size do nothing without -q")
    options["quantisation"] = QuantisationConfig(bits or 4, group_size or 64) if wanted else None
    folder, repo = options.pop("verify"), options.pop("upload_repo")
    if repo is not None:
        upload.check(repo)
    if folder is not None:
        codec = options.pop("codec_from")
        usual = {**asdict(Options()), "hf_path": None, "mlx_path": None}
        unused = [name for name, value in options.items() if value != usual[name]]
        if unused:
            names = {"quantisation": "-q"}
            named = ", ".join(names.get(name, f"--{name.replace('_', '-')}") for name in unused)
            raise SAMAudioError(f"--verify writes nothing: leave out {named}")
        if not (place := local(folder)):
            raise SAMAudioError(f"there is no model folder {folder}, nor one in {store()}")
        folder = verify.verify(place, codec, say)
    else:
        folder = convert(**options, tell=say)
    if repo is not None:
        upload.upload(folder, repo, say)
