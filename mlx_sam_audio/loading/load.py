"""The networks in a model folder, with their configurations and tokenizers."""

from pathlib import Path

import mlx.nn as nn

from ..errors import SAMAudioError
from ..models.config import Stored
from ..models.quantise import quantise
from ..models.sam_audio import ModelConfig, Network
from ..models.vision import VisionEncoder
from . import manifest
from .store import resolve, stamps
from .strict_json import read_json
from .tokenizers import SentencePieceTokenizer
from .weights import fill


def load(folder: Path, verify: bool = False) -> tuple[ModelConfig, Network, SentencePieceTokenizer]:
    """The separation model in a folder. verify: read large files whole, too, to check them."""
    config = read(ModelConfig, folder, verify)
    network = Network(config)
    if config.quantisation:
        quantise(network, config.quantisation)
    fill(network, folder, config.dtype)
    tokenizer = SentencePieceTokenizer(
        folder / "spiece.model", config.text, lower=bool(config.vocabulary)
    )
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
