"""The judge's checkpoint: its configuration and what is left out of it; its names are ours.

Source: facebookresearch/sam-audio (sam_audio/model/config.py, judge.py).
"""

from dataclasses import dataclass

from mlx_sam_audio.loading.strict_json import read_json
from mlx_sam_audio.loading.tokenizers import JSONTokenizer
from mlx_sam_audio.models.config import Layers, Width
from mlx_sam_audio.models.dacvae import EncoderConfig
from mlx_sam_audio.models.judge import JudgeConfig, JudgeNetwork
from mlx_sam_audio.models.schema import parse

from .pe_a_frame import Text, Transformer, text_config, text_left_out, transformer_config
from .rules import Checkpoint, Part
from .sam_audio import Codec
from .sources import CHECKPOINT, Source
from .torch_file import TorchWeights

NAME = "SAM-Audio-Judge"
MODEL_TYPE = JudgeConfig.model_type
REPOS = {"judge": ("facebook/sam-audio-judge", "sam_audio")}
MARKS = {"finetune_transformer", "bottleneck_dim"}


@dataclass(frozen=True)
class Judge:
    """The reference's config class."""

    audio_codec: Codec | None = None
    transformer: Transformer | None = None
    text_model: Text | None = None
    finetune_transformer: Transformer | None = None
    nth_text_layer: Layers | None = 22
    bottleneck_dim: Width = 256


def checkpoint(source: Source, dtype: str | None) -> Checkpoint:
    path = source.file("config.json")
    given = parse(Judge, read_json(path), path)
    codec, tower = given.audio_codec or Codec(), given.text_model or Text()
    text = text_config(tower, given.nth_text_layer)
    weights = TorchWeights(source.file(CHECKPOINT))
    config = JudgeConfig(
        codec=EncoderConfig(
            sample_rate=codec.sample_rate,
            encoder_dim=codec.encoder_dim,
            encoder_rates=codec.encoder_rates,
            latent_dim=codec.latent_dim,
            codebook_dim=codec.codebook_dim,
        ),
        text=text,
        transformer=transformer_config(given.transformer),
        finetune_transformer=transformer_config(given.finetune_transformer),
        bottleneck_dim=given.bottleneck_dim,
        dtype=dtype or weights.dtype,
    ).checked(path)
    # the reference reads the tokenizer from the main branch, whatever the checkpoint's
    branch = Source.find(source.repo) if source.repo else source
    tokenizer = branch.file("tokenizer.json")
    JSONTokenizer(tokenizer, text)  # if it fits
    left_out = text_left_out(tower, text)
    return Checkpoint(
        config=config,
        network=JudgeNetwork(config),
        parts=(Part("", weights, lambda name: name, left_out),),
        copies=(tokenizer,),
        origin=lambda: {
            "checkpoint": source.describe(CHECKPOINT, path.name),
            "tokenizer": branch.describe(tokenizer.name),
        },
    )
