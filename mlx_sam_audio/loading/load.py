"""From a name to a network with every weight in place, or an error."""

import contextlib
import difflib
import fnmatch
import math
import os
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from safetensors import SafetensorError, safe_open

from ..engine import memory
from ..errors import SAMAudioError, note, shown
from ..files import reason
from ..models import cpu
from ..models.config import Stored
from ..models.quantise import quantise
from ..models.sam_audio import ModelConfig, Network
from ..models.t5 import Tokenizer
from ..models.vision import VisionEncoder
from . import manifest
from .strict_json import read_json

SIZES = ("small", "base", "large", "small-tv", "base-tv", "large-tv")
AUXILIARY = ("pe-a-frame-small", "pe-a-frame-base", "pe-a-frame-large", "judge", "clap")
KNOWN = (*SIZES, *AUXILIARY, "imagebind", "demo")
TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "uint32": "U32"}
DEMO = Path(__file__).parent.parent / "demo" / "model"


def store() -> Path:
    """The local store of converted models."""
    try:
        return Path.home() / ".cache" / "mlx-sam-audio"
    except RuntimeError:
        raise SAMAudioError("the store of models is in your home folder: set HOME") from None


def stamps() -> Path:
    """The folder of `manifest`'s stamps."""
    try:
        return store() / ".verified"
    except SAMAudioError:  # nobody's home: nothing can be remembered
        return Path(os.devnull)


def resolve(name: str | Path, revision: str | None = None) -> Path:
    """The folder of a model: a path, a name in the local store, or a hub repo `owner/name`."""
    path = expanded(name)
    if present(path):
        return path
    name = str(name)
    if name == "demo":
        return DEMO
    if not name.startswith((".", "/", "~")) and present(expanded(store() / name)):
        return store() / name
    if name in SIZES + AUXILIARY:
        raise SAMAudioError(
            f"the model {name!r} is not converted yet: run `python -m convert --hf-path {name}` "
            "once (where the original weights are gated, the README says how to get access)"
        )
    if name == "imagebind":
        raise SAMAudioError(
            "the model 'imagebind' is not converted yet: download "
            "https://dl.fbaipublicfiles.com/imagebind/imagebind_huge.pth into a folder named "
            "imagebind and run `python -m convert --hf-path imagebind` beside it once"
        )
    if not is_repo(name):
        raise SAMAudioError(
            f"there is no model folder {name}, and no model of that name in {store()}"
            + nearest(name, [*KNOWN, *(folder.name for folder in models())])
        )
    return download(name, ["*.json", "*.safetensors", "spiece.model", "LICENSE*"], revision)


def expanded(name: str | Path) -> Path:
    """A path, ~ replaced. Raises SAMAudioError for what can be none on this system."""
    if not isinstance(name, (str, os.PathLike)):
        raise SAMAudioError(f"name must be a path or a model's name, not {shown(name)}")
    try:
        path = Path(name).expanduser()
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, RuntimeError) as error:  # too long, a zero byte, nobody's home
        raise SAMAudioError(f"there is no folder {str(name)[:300]}: {reason(error)}") from None
    return path


def aside(folder: Path) -> Path:
    """Where a conversion keeps the folder that it replaces until the new one has its name."""
    return folder.with_name(f".{folder.name}.replaced")


def present(folder: Path) -> bool:
    """Is the folder there? If it was put aside by a conversion that was killed then, it is now."""
    if not folder.exists() and folder.name:
        real = Path(os.path.realpath(folder))
        with contextlib.suppress(OSError):
            os.replace(aside(real), real)
    return folder.is_dir()


def is_repo(name: str) -> bool:
    """Has it the form owner/name?"""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and name[-1] != "/"


def nearest(name: str, known: list[str]) -> str:
    """The end of a sentence that says there is no such name."""
    found = difflib.get_close_matches(name[:100], known, 1)
    return f": did you mean {found[0]}?" if found else ""


def models() -> list[Path]:
    """The folders of the local store; hidden ones are not finished, or were put aside."""
    try:
        for path in store().glob(".*.replaced"):
            present(path.with_name(path.name[1 : -len(".replaced")]))
        return sorted(path for path in store().glob("[!.]*") if path.is_dir())
    except OSError as error:
        raise SAMAudioError(f"cannot read {store()}: {reason(error)}") from None


def download(repo: str, patterns: list[str], revision: str | None = None) -> Path:
    """A hub repo's files that match, in the hub's cache; from the cache alone when offline."""
    from huggingface_hub import constants, errors, snapshot_download

    try:
        return Path(snapshot_download(repo, allow_patterns=patterns, revision=revision))
    except errors.GatedRepoError:
        raise SAMAudioError(
            f"{repo} is gated: ask for access at https://huggingface.co/{repo}, then log in with "
            "`hf auth login` (or set HF_TOKEN)"
        ) from None
    except errors.RevisionNotFoundError:
        raise SAMAudioError(f"{repo} has no revision {revision!r}") from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise SAMAudioError(
            f"there is no folder and no public hub repo {repo!r}; for a private one, log in with "
            "`hf auth login`"
        ) from None
    except errors.LocalEntryNotFoundError:
        raise SAMAudioError(
            f"cannot download {repo}: {constants.ENDPOINT} is not reached, and no copy is in the "
            "hub's cache"
        ) from None
    except (errors.HfHubHTTPError, OSError) as error:
        lines = reason(error).strip().splitlines() or [type(error).__name__]
        raise SAMAudioError(f"cannot download {repo}: {lines[0]}") from None


def load(folder: Path, verify: bool = False) -> tuple[ModelConfig, Network, Tokenizer]:
    """The separation model in a folder. verify: read large files whole, too, to check them."""
    config = read(ModelConfig, folder, verify)
    network = Network(config)
    if config.quantisation:
        quantise(network, config.quantisation)
    fill(network, folder, config.dtype)
    tokenizer = Tokenizer(folder / "spiece.model", config.text, lower=bool(config.vocabulary))
    return config, network, tokenizer


def load_vision(folder: Path) -> VisionEncoder:
    """The vision encoder of the model in a folder, from files that nothing else needs."""
    config = read(ModelConfig, folder)
    if config.vision is None:
        raise SAMAudioError(f"the model in {folder} has no vision: it takes text and spans only")
    return fill(VisionEncoder(config.vision), folder, config.dtype, "vision")


def auxiliary(
    name: str | Path,
    revision: str | None,
    kind: type[Stored],
    network: type[nn.Module],
    verify: bool = False,
) -> tuple[Path, Stored, nn.Module]:
    """Folder, configuration and network of a model other than the separation model."""
    folder = resolve(name, revision)
    config = read(kind, folder, verify)
    return folder, config, fill(network(config), folder, config.dtype)


def read(kind: type[Stored], folder: Path, verify: bool = False) -> Stored:
    """The configuration in a folder whose files are what its manifest says."""
    path = folder / "config.json"
    config = kind.from_dict(read_json(path), path)
    manifest.check(folder, verify, stamps())
    return config


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


def largest_that_fits(limit: int | None, window: float) -> tuple[str, str]:
    """The largest separation model of the local store for this machine, and why, in a sentence.

    window: seconds; limit: bytes, if not all that the machine offers. Notes which models cannot be
    used.
    """
    found = {}  # name -> size on disk, configuration
    for folder in models():
        if not (folder / "config.json").is_file():
            continue
        try:
            values = read_json(folder / "config.json")
            if values.get("model_type") == ModelConfig.model_type:
                config = ModelConfig.from_dict(values, folder / "config.json")
                entries = manifest.read(folder)
                weights = fnmatch.filter(entries, "model*.safetensors")
                found[folder.name] = sum(entries[name].bytes for name in weights), config
        except SAMAudioError as error:
            note(f"the model {folder.name} is left out: {error}")
    if not found:
        raise SAMAudioError(
            f"no converted model in {store()}: run `python -m convert --hf-path small` once, or "
            "name a model with -m: a folder, or demo, the small bundled one"
        )
    offered = memory.text(memory.offered(limit))
    for name, (size, config) in sorted(found.items(), key=lambda item: -item[1][0]):
        weights = size * memory.itemsize(config) // getattr(mx, config.dtype).size
        frames = math.ceil(window * config.codec.sample_rate / config.codec.hop_length)
        try:
            memory.pieces(config, weights, frames, range(1, 1), frames, limit)
        except SAMAudioError:
            continue
        size = memory.text(size)
        return name, f"model {name}: {size}, the largest in {store()} that fits {offered} of memory"
    raise SAMAudioError(f"none of the models in {store()} fits {offered} of memory")
