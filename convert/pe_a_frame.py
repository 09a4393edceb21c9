"""PE-A-Frame's checkpoint: its configuration, its names, and what is left out of it.

Source: facebookresearch/perception_models (core/audio_visual_encoder/config.py, pe.py). Its config
classes ignore keys that they do not know, and so does this file, except for keys that would change
the network. The judge's checkpoint has the same text tower and transformer: see `judge`.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

from mlx_sam_audio.errors import SAMAudioError
from mlx_sam_audio.loading.strict_json import read_json
from mlx_sam_audio.loading.tokenizers import JSONTokenizer
from mlx_sam_audio.models.config import (
    Epsilon,
    Heads,
    Layers,
    Positions,
    Rates,
    SampleRate,
    Theta,
    Token,
    Vocabulary,
    Width,
)
from mlx_sam_audio.models.modernbert import ModernBertConfig
from mlx_sam_audio.models.pe_a_frame import PEAudioFrame, SpanPredictorConfig
from mlx_sam_audio.models.pe_transformer import PETransformerConfig
from mlx_sam_audio.models.schema import Lenient, Wrong, parse

from .rules import Checkpoint, Part
from .safetensors_files import SafetensorsWeights
from .sources import Source

NAME = "PE-A-Frame"
MODEL_TYPE = SpanPredictorConfig.model_type
REPOS = {
    f"pe-a-frame-{size}": (f"facebook/pe-a-frame-{size}", "perception_models")
    for size in ("small", "base", "large")
}
MARKS = {"audio_model"}
LEFT_OUT = {r"audio_model\.dac_vae_encoder\.": "the codec: latents come from SAM-Audio's own"}

MAX_TOKENS = 512  # a constant of the reference's processors


# The reference's config classes: their defaults stand for keys that config.json omits. What is
# Literal, or None, is all that the networks are written for.


@dataclass(frozen=True)
class Codec(Lenient):
    downsampling_ratios: Rates = (2, 8, 10, 12)
    codebook_dim: Width = 128
    sampling_rate: SampleRate = 48_000


@dataclass(frozen=True)
class Transformer(Lenient):
    hidden_size: Width = 1024
    intermediate_size: Width = 2752
    num_hidden_layers: Layers = 16
    num_attention_heads: Heads = 8
    num_key_value_heads: Heads | None = None  # as many
    max_position_embeddings: Positions = 10_000
    rms_norm_eps: Epsilon = 1e-5
    attention_bias: Literal[False] = False

    def wrong(self) -> Wrong:
        heads, keys = self.num_attention_heads, self.num_key_value_heads
        return {f"{heads} heads, but {keys} of keys, are not supported": keys not in (None, heads)}


@dataclass(frozen=True)
class Text(Lenient):
    model_type: Literal["modernbert"] = "modernbert"
    vocab_size: Vocabulary = 50_368
    hidden_size: Width = 768
    intermediate_size: Width = 1152
    num_hidden_layers: Layers = 22
    num_attention_heads: Heads = 12
    norm_eps: Epsilon = 1e-5
    global_attn_every_n_layers: Layers = 3
    local_attention: Token = 128
    global_rope_theta: Theta = 160_000.0
    local_rope_theta: Theta = 10_000.0
    pad_token_id: Token = 50_283
    hidden_activation: Literal["gelu"] = "gelu"
    norm_bias: Literal[False] = False
    attention_bias: Literal[False] = False
    mlp_bias: Literal[False] = False
    layer_types: None = None
    rope_parameters: None = None


# what stands for a text_model that PE-A-Frame's config.json omits
LARGE_TEXT = Text(
    hidden_size=1024, intermediate_size=2624, num_hidden_layers=28, num_attention_heads=16
)


@dataclass(frozen=True)
class Audio(Lenient):
    dac_vae_encoder: Codec | None = None
    audio_transformer: Transformer | None = None


@dataclass(frozen=True)
class Model(Lenient):
    audio_model: Audio | None = None
    text_model: Text | None = None
    nth_text_layer: Layers | None = 22
    output_dim: Width = 1024


def checkpoint(source: Source, dtype: str | None) -> Checkpoint:
    path = source.file("config.json")
    given = parse(Model, read_json(path), path)
    audio, tower = given.audio_model or Audio(), given.text_model or LARGE_TEXT
    codec, text = audio.dac_vae_encoder or Codec(), text_config(tower, given.nth_text_layer)
    weights = SafetensorsWeights(source, "model.safetensors")
    config = SpanPredictorConfig(
        sample_rate=codec.sampling_rate,
        hop_length=math.prod(codec.downsampling_ratios),
        channels=codec.codebook_dim,
        transformer=transformer_config(audio.audio_transformer),
        text=text,
        output_dim=given.output_dim,
        dtype=dtype or weights.dtype,
    ).checked(path)
    tokenizer = source.file("tokenizer.json")
    JSONTokenizer(tokenizer, text)  # if it fits
    return Checkpoint(
        config=config,
        network=PEAudioFrame(config),
        parts=(
            Part(
                "",
                weights,
                source_name,
                {**LEFT_OUT, **text_left_out(tower, text)},
            ),
        ),
        copies=(tokenizer,),
        origin=lambda: {
            "checkpoint": source.describe(*weights.files, source.config, tokenizer.name)
        },
    )


def source_name(name: str) -> str:
    return re.sub(r"^(data_proj|audio_transformer)", r"audio_model.\1", name)


def transformer_config(given: Transformer | None) -> PETransformerConfig:
    given = given or Transformer()
    return PETransformerConfig(
        dim=given.hidden_size,
        n_heads=given.num_attention_heads,
        n_layers=given.num_hidden_layers,
        ffn_dim=given.intermediate_size,
        norm_eps=given.rms_norm_eps,
        max_positions=given.max_position_embeddings,
    )


def text_config(given: Text, layers: int | None) -> ModernBertConfig:
    """layers: which layer's output is read, without the final norm."""
    if layers is None or layers >= given.num_hidden_layers:
        raise SAMAudioError(
            f"nth_text_layer is {layers}: only a layer before the last of "
            f"{given.num_hidden_layers} is supported"
        )
    return ModernBertConfig(
        vocab_size=given.vocab_size,
        dim=given.hidden_size,
        n_heads=given.num_attention_heads,
        n_layers=layers,
        ffn_dim=given.intermediate_size,
        eps=given.norm_eps,
        global_every=given.global_attn_every_n_layers,
        window=given.local_attention // 2,
        global_theta=given.global_rope_theta,
        local_theta=given.local_rope_theta,
        pad_token=given.pad_token_id,
        max_tokens=MAX_TOKENS,
    )


def text_left_out(given: Text, text: ModernBertConfig) -> dict[str, str]:
    layers = "|".join(map(str, range(text.n_layers, given.num_hidden_layers)))
    return {
        rf"text_model\.layers\.(?:{layers})\.": "text layers after the one that is read",
        r"text_model\.final_norm\.": "comes after the last text layer",
    }
