"""From a name to a network with every weight in place, or an error."""

import math
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from . import memory
from .config import ModelConfig, Stored, read_json
from .device import on_cpu
from .errors import SAMAudioError
from .network import Network
from .quantise import quantise
from .t5 import Tokenizer
from .vision import VisionEncoder

SIZES = ("small", "base", "large", "small-tv", "base-tv", "large-tv")
AUXILIARY = ("pe-a-frame-small", "pe-a-frame-base", "pe-a-frame-large", "judge", "clap")
DEMO = Path(__file__).parent / "demo" / "model"


def store() -> Path:
    """The local store of converted models."""
    return Path.home() / ".cache" / "mlx-sam-audio"


def resolve(name: str | Path, revision: str | None = None) -> Path:
    """The folder of a model: a path, a name in the local store, or a hub repo `owner/name`."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    name = str(name)
    if name == "demo":
        return DEMO
    if (store() / name).is_dir() and name not in ("", ".", ".."):
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
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise SAMAudioError(
            f"there is no model folder {name}, and no model of that name in {store()}"
        )
    return download(name, ["*.json", "*.safetensors", "spiece.model"], revision)


def download(repo: str, patterns: list[str], revision: str | None = None) -> Path:
    """A hub repo's files that match, in the hub's cache; from the cache alone when offline."""
    from huggingface_hub import errors, snapshot_download

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
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SAMAudioError(f"cannot download {repo}: {reason}") from None


def load(folder: Path) -> tuple[ModelConfig, Network, Tokenizer]:
    """The separation model in a folder."""
    config = ModelConfig.read(folder)
    network = Network(config)
    if config.quantisation:
        quantise(network, config.quantisation)
    fill(network, folder)
    pieces = folder / "spiece.model"
    if not pieces.is_file():
        raise SAMAudioError(f"{folder} holds no spiece.model: convert the model again")
    try:
        tokenizer = Tokenizer(pieces, config.text.max_tokens)
    except (RuntimeError, OSError):
        raise SAMAudioError(f"{pieces} is not a SentencePiece model: convert again") from None
    return config, network, tokenizer


def load_vision(folder: Path) -> VisionEncoder:
    """The vision encoder of the model in a folder, from files that nothing else needs."""
    config = ModelConfig.read(folder)
    if config.vision is None:
        raise SAMAudioError(f"the model in {folder} has no vision: it takes text and spans only")
    return fill(VisionEncoder(config.vision), folder, "vision")


def auxiliary(
    name: str | Path, revision: str | None, kind: type[Stored], network: type[nn.Module]
) -> tuple[Path, Stored, nn.Module]:
    """Folder, configuration and network of a model other than the separation model."""
    folder = resolve(name, revision)
    config = kind.read(folder)
    return folder, config, fill(network(config), folder)


def fill(network: nn.Module, folder: Path, name: str = "model") -> nn.Module:
    """Give every parameter its tensor from the files NAME*.safetensors.

    Raises SAMAudioError that names the first keys at fault. Weights are read when first used, in
    whatever thread that is. On the CPU they are widened to float32, since half-precision products
    are scalar loops there.
    """
    reading = mx.new_thread_unsafe_stream(mx.cpu)  # the default one is of this thread alone
    files = sorted(folder.glob(f"{name}*.safetensors"))
    if not files:
        raise SAMAudioError(f"{folder} holds no {name}*.safetensors")
    weights = {}
    for file in files:
        try:
            tensors = mx.load(str(file), stream=reading)
        except (RuntimeError, ValueError) as error:
            raise SAMAudioError(f"cannot read {file}: {error}") from None
        twice = sorted(set(tensors) & set(weights))
        complain(f"{folder} holds twice", twice)
        weights.update(tensors)
    wanted = dict(tree_flatten(network.parameters()))
    complain(f"{folder} lacks", sorted(set(wanted) - set(weights)))
    complain(f"{folder} holds unknown", sorted(set(weights) - set(wanted)))
    misshapen = [
        f"{name} {weights[name].shape} instead of {value.shape}"
        for name, value in wanted.items()
        if weights[name].shape != value.shape
    ]
    complain(f"{folder} holds misshapen", misshapen)
    network.load_weights(list(weights.items()), strict=True)
    if on_cpu():
        with mx.stream(reading):
            network.set_dtype(mx.float32)
    return network.eval()


def complain(problem: str, keys: list[str]) -> None:
    if keys:
        more = f" and {len(keys) - 10} more" if len(keys) > 10 else ""
        raise SAMAudioError(f"{problem} {len(keys)} tensors: {', '.join(keys[:10])}{more}")


def largest_that_fits(limit: int | None, window: float) -> tuple[str, str]:
    """The largest separation model of the local store for this machine, and why, in a sentence.

    window: seconds; limit: bytes, if not all that the machine offers.
    """
    sizes = {
        folder.name: sum(file.stat().st_size for file in folder.glob("model*.safetensors"))
        for folder in (sorted(store().iterdir()) if store().is_dir() else ())
        if (folder / "config.json").is_file()
        and read_json(folder / "config.json").get("model_type") == ModelConfig.model_type
    }
    if not sizes:
        raise SAMAudioError(
            f"no converted model in {store()}: run `python -m convert --hf-path small` once, or "
            "name a model with -m: a folder, or demo, the small bundled one"
        )
    offered = memory.text(memory.offered(limit))
    for name in sorted(sizes, key=sizes.get, reverse=True):
        try:
            config = ModelConfig.read(store() / name)
        except SAMAudioError:
            continue
        weights = sizes[name] * memory.itemsize(config) // getattr(mx, config.dtype).size
        frames = math.ceil(window * config.codec.sample_rate / config.codec.hop_length)
        try:
            memory.pieces(config, weights, frames, range(1, 1), frames, limit)
        except SAMAudioError:
            continue
        size = memory.text(sizes[name])
        return name, f"model {name}: {size}, the largest in {store()} that fits {offered} of memory"
    raise SAMAudioError(f"none of the models in {store()} fits {offered} of memory")
