"""SAM-Audio's configuration: the reference's and T5's, and ours from both.

Sources: facebookresearch/sam-audio (sam_audio/model/config.py), dacvae, transformers T5,
facebookresearch/perception_models (core/vision_encoder/config.py).
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from mlx_sam_audio.errors import SAMAudioError
from mlx_sam_audio.loading.strict_json import read_json
from mlx_sam_audio.models.config import (
    Epsilon,
    Heads,
    Layers,
    Positions,
    Rates,
    SampleRate,
    Tokens,
    Vocabulary,
    Width,
)
from mlx_sam_audio.models.dacvae import CodecConfig
from mlx_sam_audio.models.dit import TransformerConfig
from mlx_sam_audio.models.quantise import QuantisationConfig
from mlx_sam_audio.models.sam_audio import ALIGNMENT, MISSING, VISION, WATERMARK, ModelConfig
from mlx_sam_audio.models.schema import Lenient, Wrong, parse
from mlx_sam_audio.models.t5 import TextConfig
from mlx_sam_audio.models.vision import VisionConfig

WATERMARK_RATES = (8, 5, 4, 2)  # constants of dacvae

# The reference's config classes: their defaults stand for keys that config.json omits. What is Any
# makes no difference here, and what is Literal is all that the network is written for.


@dataclass(frozen=True)
class Codec:
    encoder_dim: Width = 64
    encoder_rates: Rates = (2, 8, 10, 12)
    latent_dim: Width = 1024
    decoder_dim: Width = 1536
    decoder_rates: Rates = (12, 10, 8, 2)
    n_codebooks: Any = 16
    codebook_size: Any = 1024
    codebook_dim: Width = 128
    quantizer_dropout: Any = False
    sample_rate: SampleRate = 48_000
    mean: Annotated[float, 0, 0] = 0.0
    std: Annotated[float, 1, 1] = 1.0
    watermark: bool = True


@dataclass(frozen=True)
class Text:
    name: Annotated[str, 1, 255] = "t5-base"
    max_length: Tokens = 512
    pad_mode: Literal["longest"] = "longest"
    dim: Width = 768


@dataclass(frozen=True)
class Tower:
    patch_size: Width
    width: Width
    layers: Layers
    heads: Heads


TOWERS = {  # sizes that the checkpoint only names
    "PE-Core-L14-336": Tower(patch_size=14, width=1024, layers=24, heads=16),
}


@dataclass(frozen=True)
class Vision:
    dim: Width = 1024
    batch_size: Any = 300
    name: Annotated[str, 1, 255] = "PE-Core-L14-336"
    normalize_feature: Literal[True] = True
    interpolation_mode: Literal["BICUBIC"] = "BICUBIC"
    image_size: Width = 336
    tower: Tower | None = None  # ours: sizes of a tower that the name does not tell

    def wrong(self) -> Wrong:
        names = ", ".join(TOWERS)
        return {
            f"name is {self.name!r}, expected {names}, or another with its sizes as tower": (
                self.name not in TOWERS and self.tower is None
            )
        }


@dataclass(frozen=True)
class Transformer:
    dim: Width = 2048
    n_heads: Heads = 16
    n_layers: Layers = 16
    dropout: Any = 0.1
    norm_eps: Epsilon = 1e-5
    qk_norm: Literal[True] = True
    fc_bias: Literal[False] = False
    ffn_exp: Annotated[float, 0.1, 100] = 4
    ffn_dim_multiplier: Annotated[float, 0.1, 100] = 1
    multiple_of: Width = 64
    non_linearity: Literal["swiglu"] = "swiglu"
    use_rope: Literal[True] = True
    max_positions: Positions = 10_000
    frequency_embedding_dim: Width = 256
    timestep_non_linearity: Literal["swiglu"] = "swiglu"
    t_block_non_linearity: Literal["silu"] = "silu"
    t_block_bias: Literal[True] = True
    context_dim: Width = 2048
    context_non_linearity: Literal["swiglu"] = "swiglu"
    context_embedder_dropout: Any = 0.0
    context_norm: Literal[False] = False
    out_channels: Width = 256
    in_channels: None = None


@dataclass(frozen=True)
class Model:
    in_channels: Annotated[int, 1, 2**19] = 768
    audio_codec: Codec | None = None
    text_encoder: Text | None = None
    vision_encoder: Vision | None = Vision()  # null: a model without vision
    transformer: Transformer | None = None
    num_anchors: Width = 3
    anchor_embedding_dim: Width = 128
    visual_ranker: Any = None
    text_ranker: Any = None
    span_predictor: Any = "pe-a-frame-large"

    def wrong(self) -> Wrong:
        channels = (self.audio_codec or Codec()).codebook_dim
        outputs = (self.transformer or Transformer()).out_channels
        problem = f"in_channels {self.in_channels} and out_channels {outputs} do not fit "
        return {
            f"{problem}{channels} latent channels": (self.in_channels, outputs)
            != (6 * channels, 2 * channels)
        }


@dataclass(frozen=True)
class T5(Lenient):
    """Of transformers."""

    model_type: Literal["t5"]
    vocab_size: Vocabulary
    d_model: Width
    d_kv: Width
    d_ff: Width
    num_layers: Layers
    num_heads: Heads
    relative_attention_num_buckets: Annotated[int, 4, 2**16] = 32
    relative_attention_max_distance: Positions = 128
    layer_norm_epsilon: Epsilon = 1e-6
    feed_forward_proj: Literal["relu"] = "relu"


def read_t5(path: Path, width: int) -> T5:
    t5 = parse(T5, read_json(path), path)
    if t5.d_model != width:
        raise SAMAudioError(f"the text encoder is {t5.d_model} wide, the checkpoint wants {width}")
    return t5


def config(
    given: Model,
    t5: T5,
    dtype: str,
    quantisation: QuantisationConfig | None,
    promised: Collection[str],
    found: Collection[str],
) -> ModelConfig:
    """Our complete configuration from the reference's and T5's. promised, found: groups of tensors
    that there should be, and that there are."""
    codec, transformer = given.audio_codec or Codec(), given.transformer or Transformer()
    hidden = int(2 * int(transformer.ffn_exp * transformer.dim) / 3)
    hidden = int(transformer.ffn_dim_multiplier * hidden)
    multiple = transformer.multiple_of
    return ModelConfig(
        codec=CodecConfig(
            sample_rate=codec.sample_rate,
            encoder_dim=codec.encoder_dim,
            encoder_rates=codec.encoder_rates,
            latent_dim=codec.latent_dim,
            decoder_dim=codec.decoder_dim,
            decoder_rates=codec.decoder_rates,
            codebook_dim=codec.codebook_dim,
            watermark=WATERMARK in found,
            watermark_rates=WATERMARK_RATES if WATERMARK in found else (),
        ),
        text=TextConfig(
            vocab_size=t5.vocab_size,
            d_model=t5.d_model,
            d_kv=t5.d_kv,
            d_ff=t5.d_ff,
            num_layers=t5.num_layers,
            num_heads=t5.num_heads,
            num_buckets=t5.relative_attention_num_buckets,
            max_distance=t5.relative_attention_max_distance,
            eps=t5.layer_norm_epsilon,
            max_tokens=(given.text_encoder or Text()).max_length,
        ),
        transformer=TransformerConfig(
            dim=transformer.dim,
            n_heads=transformer.n_heads,
            n_layers=transformer.n_layers,
            ffn_dim=multiple * -(-hidden // multiple),
            context_dim=transformer.context_dim,
            frequency_dim=transformer.frequency_embedding_dim,
            norm_eps=transformer.norm_eps,
            max_positions=transformer.max_positions,
            out_channels=transformer.out_channels,
        ),
        vision=vision_config(given.vision_encoder) if VISION in found else None,
        video_constant=ALIGNMENT in found and VISION not in found,
        vocabulary=None,
        num_anchors=given.num_anchors,
        anchor_dim=given.anchor_embedding_dim,
        dtype=dtype,
        quantisation=quantisation,
        missing=tuple(group for group in MISSING if group in promised and group not in found),
    )


def vision_config(vision: Vision) -> VisionConfig:
    tower = vision.tower or TOWERS[vision.name]
    return VisionConfig(
        dim=vision.dim,
        image_size=vision.image_size,
        pool_heads=8,
        mlp_dim=4 * tower.width,
        **asdict(tower),
    )
