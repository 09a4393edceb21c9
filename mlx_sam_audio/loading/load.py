"""The networks in a model folder, with their configurations and tokenizers."""

from pathlib import Path
from typing import Any, ClassVar, TypeVar

import mlx.nn as nn

from ..errors import SAMAudioError, note
from ..models.config import Stored
from ..models.quantise import quantise
from ..models.sam_audio import ModelConfig, Network
from ..models.vision import VisionEncoder
from . import manifest
from .store import resolve, stamps, title
from .strict_json import read_json
from .tokenizers import JSONTokenizer, SentencePieceTokenizer
from .weights import fill

T = TypeVar("T", bound="Auxiliary")
USUAL = Path()  # stands for a kind's own name in the local store


def load(folder: Path, verify: bool = False) -> tuple[ModelConfig, Network, SentencePieceTokenizer]:
    """The separation model in a folder. verify: read large files whole, too, to check them."""
    config = read(ModelConfig, folder, verify)
    if config.missing:
        note(f"the model {title(folder)} {config.lacks_shortly}")
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
        why = config.lacks_shortly if config.missing else "has no vision encoder"
        raise SAMAudioError(f"the model {title(folder)} takes text and spans only: it {why}")
    return fill(VisionEncoder(config.vision), folder, config.dtype, "vision")


class Auxiliary:
    """A loaded model other than the separation model: a network, and what goes with it. Its methods
    are pure functions of their arguments."""

    NAME: ClassVar[str]  # in the local store
    CONFIG: ClassVar[type[Stored]]
    NETWORK: ClassVar[type[nn.Module]]

    def __init__(self, config: Any, network: Any, tokenizer: JSONTokenizer | None = None):
        self.config = config
        self.network = network
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(
        cls: type[T],
        name: str | Path = USUAL,
        revision: str | None = None,
        verify: bool = False,
    ) -> T:
        """Load a converted model, as `SAMAudio.from_pretrained` does."""
        folder = resolve(cls.NAME if name is USUAL else name, revision, cls.CONFIG.model_type)
        config = read(cls.CONFIG, folder, verify)
        network, text = cls.NETWORK(config), getattr(config, "text", None)
        tokenizer = text and JSONTokenizer(folder / "tokenizer.json", text)
        return cls(config, fill(network, folder, config.dtype), tokenizer)


def read(kind: type[Stored], folder: Path, verify: bool = False) -> Stored:
    """The configuration in a folder whose files are what its manifest says."""
    path = folder / "config.json"
    config = kind.from_dict(read_json(path), path)
    manifest.check(folder, verify, stamps())
    return config
