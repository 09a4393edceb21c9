"""A loaded model, as the engine sees it."""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from .. import ode
from ..errors import SAMAudioError
from ..loading import load
from ..loading.tokenizers import SentencePieceTokenizer
from ..models.dit import Moment
from ..models.sam_audio import ModelConfig, Network
from ..models.vision import VisionEncoder
from ..settings import digest
from .group import SINGLE


class Networks:
    """The networks of a model, and what goes with them."""

    def __init__(
        self,
        config: ModelConfig,
        network: Network,
        tokenizer: SentencePieceTokenizer,
        folder: Path | None = None,  # for what is loaded only when it is used
    ):
        self.config = config
        self.network = network
        self.tokenizer = tokenizer
        self.velocity = mx.compile(network.velocity, inputs=network)  # traced once for each shape
        self.folder = folder
        self.group = SINGLE  # who shares the work of its runs

    @cached_property
    def vision(self) -> VisionEncoder:
        """The vision encoder, read from disk when a video is first given."""
        if self.folder is None:
            raise SAMAudioError("a model without a folder has no vision encoder to load")
        return load.load_vision(self.folder)

    @cached_property
    def predictor(self) -> Callable:
        """What finds spans where nobody says by what."""
        raise SAMAudioError("this model has no span predictor: give one as predict_spans=")

    @property
    def name(self) -> str:
        """The name of the model's folder, if it has one."""
        return self.folder.name if self.folder else ""

    @property
    def sample_rate(self) -> int:
        return self.config.codec.sample_rate

    @property
    def hop_length(self) -> int:
        return self.config.codec.hop_length

    def frames(self, samples: int) -> int:
        """Latent frames of so many samples."""
        return -(-samples // self.hop_length)

    def read_weights(self) -> None:
        """Read what is not in memory yet, lest the GPU wait for a disk."""
        mx.eval(self.network.parameters())

    def embed_text(self, descriptions: Sequence[str]) -> tuple[mx.array, mx.array]:
        """Features (B, L, d_model) and mask (B, L) of the descriptions' tokens."""
        tokens, mask = self.tokenizer(list(descriptions))
        text = self.network.text_encoder(tokens, mask)
        mx.eval(text, mask)
        return text, mask

    def moments(self, text: mx.array, plan: Sequence[ode.Evaluation]) -> dict[float, Moment]:
        """What depends on time and text (B, L, d_model) alone, for all evaluations at once."""
        times = sorted({evaluation.time for evaluation in plan})
        moments = self.network.moments(times, self.network.memory_proj(text))
        mx.eval(moments)
        return dict(zip(times, moments, strict=True))

    def fingerprint(self) -> str:
        """Of the configuration and of some weights of each kind."""
        network = self.network
        layers = (network.proj.noisy, network.memory_proj, network.transformer.t_block)
        return digest(self.config, *(layer.weight.astype(mx.float32) for layer in layers))


def weight_bytes(networks: Iterable[nn.Module]) -> int:
    return sum(v.nbytes for n in networks for _, v in tree_flatten(n.parameters()))
