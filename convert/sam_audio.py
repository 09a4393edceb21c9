"""SAM-Audio's checkpoint: its configuration, its names, and what is left out of it.

Sources: facebookresearch/sam-audio (sam_audio/model/config.py, model.py), dacvae, transformers T5,
facebookresearch/perception_models (core/vision_encoder/config.py).
"""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from mlx_sam_audio.errors import SAMAudioError
from mlx_sam_audio.loading.store import SIZES
from mlx_sam_audio.loading.strict_json import read_json
from mlx_sam_audio.loading.tokenizers import SentencePieceTokenizer
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
from mlx_sam_audio.models.sam_audio import ModelConfig, Network
from mlx_sam_audio.models.schema import Lenient, Wrong, parse
from mlx_sam_audio.models.t5 import TextConfig
from mlx_sam_audio.models.vision import VisionConfig, VisionEncoder

from .rules import Checkpoint, Part
from .sources import SafetensorsWeights, Source
from .torch_file import TorchWeights

NAME = "SAM-Audio"
REPOS = {size: (f"facebook/sam-audio-{size}", None) for size in SIZES}  # None: the main branch
MARKS = {"in_channels", "num_anchors", "anchor_embedding_dim", "text_encoder", "vision_encoder"}
LEFT_OUT = {
    r"vision_encoder\.model\.(?!visual\.)": "the text tower of the vision model: nothing uses it",
}
TEXT_LEFT_OUT = {
    r"decoder\.": "T5's decoder: only its encoder reads the prompt",
    r"lm_head\.": "T5's output layer, which belongs to the decoder",
    r"encoder\.embed_tokens\.": "a copy of `shared`",
}

TEXT_ENCODERS = tuple(
    f"{owner}t5-{size}" for owner in ("", "google-t5/") for size in ("small", "base", "large")
)


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


WATERMARK_RATES = (8, 5, 4, 2)  # constants of dacvae


def checkpoint(
    source: Source,
    dtype: str,
    text_encoder: str | None = None,
    quantisation: QuantisationConfig | None = None,
) -> Checkpoint:
    """text_encoder: a folder or repo with T5, which the checkpoint does not hold."""
    path = source.file("config.json")
    given = parse(Model, read_json(path), path)
    wanted = given.text_encoder or Text()
    text = find_text_encoder(source, text_encoder, wanted)
    t5 = read_t5(text.file("config.json"), wanted.dim)
    configured = config(given, t5, wanted.max_length, dtype, quantisation).checked(path)
    stages = len(configured.codec.decoder_rates)
    network = Network(configured)
    network.vision_encoder = VisionEncoder(configured.vision) if configured.vision else None
    weights, text_weights = source.file("checkpoint.pt"), text.file("model.safetensors")
    pieces = text.file("spiece.model")
    SentencePieceTokenizer(pieces, configured.text)  # if it fits
    return Checkpoint(
        config=configured,
        network=network,
        parts=(
            Part("text_encoder", SafetensorsWeights(text_weights), text_source_name, TEXT_LEFT_OUT),
            Part("", TorchWeights(weights), lambda name: source_name(name, stages), LEFT_OUT),
        ),
        copies=(pieces,),
        origin={
            "checkpoint": source.describe(weights, path),
            "text_encoder": text.describe(text_weights, pieces),
        },
    )


def find_text_encoder(source: Source, given: str | None, text: Text) -> Source:
    """T5: `given`, a folder inside the source, or the hub's. Other places are not looked at only
    because a checkpoint names them."""
    patterns = ["config.json", "model.safetensors", "spiece.model"]
    if given is not None:
        return Source.find(given, patterns, known=TEXT_ENCODERS)
    plain = not set("/\\\0") & set(text.name) and not text.name.startswith(".")
    if plain and (source.folder / text.name).is_dir():
        return Source.find(str(source.folder / text.name), patterns)
    if text.name not in TEXT_ENCODERS:
        raise SAMAudioError(
            f"the checkpoint wants the text encoder {text.name!r}, which is neither a folder in "
            f"{source.folder} nor T5 of the hub: name a folder or repo with --text-encoder"
        )
    return Source.find(text.name, patterns, known=TEXT_ENCODERS)


def read_t5(path: Path, width: int) -> T5:
    t5 = parse(T5, read_json(path), path)
    if t5.d_model != width:
        raise SAMAudioError(f"the text encoder is {t5.d_model} wide, the checkpoint wants {width}")
    return t5


def config(
    given: Model, t5: T5, max_tokens: int, dtype: str, quantisation: QuantisationConfig | None
) -> ModelConfig:
    """Our complete configuration from the reference's and T5's."""
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
            watermark=codec.watermark,
            watermark_rates=WATERMARK_RATES if codec.watermark else (),
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
            max_tokens=max_tokens,
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
        vision=vision_config(given.vision_encoder) if given.vision_encoder else None,
        vocabulary=None,
        num_anchors=given.num_anchors,
        anchor_dim=given.anchor_embedding_dim,
        dtype=dtype,
        quantisation=quantisation,
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


def source_name(name: str, blocks: int) -> str:
    """The name in `checkpoint.pt` of one of our modules. `blocks` counts the decoder's stages."""
    # the reference keeps two networks in one list of each decoder stage; ours are apart
    main = {"0": "0", "1": "1", "2": "4", "3": "5", "4": "8"}
    if match := re.fullmatch(r"(audio_codec\.decoder\.model\.[1-9]\d*\.block)\.(\d+)(.*)", name):
        return f"{match[1]}.{main[match[2]]}{match[3]}"
    if match := re.fullmatch(r"audio_codec\.watermark\.(down|up)\.(\d+)\.(\d)(.*)", name):
        stage = int(match[2]) + 1 if match[1] == "up" else blocks - int(match[2])
        layer = {"down": ("7", "11"), "up": ("3", "6")}[match[1]][int(match[3])]
        inner = {"": "", ".block.0": ".block.1", ".block.1": ".block.3"}[match[4]]
        return f"audio_codec.decoder.model.{stage}.block.{layer}{inner}"
    for pattern, source in RENAMED:
        name = re.sub(pattern, source, name)
    return name


MARK = "audio_codec.decoder.wm_model"
RENAMED = [
    (r"^audio_codec\.decoder\.final\.", f"{MARK}.encoder_block.pre."),
    (r"^audio_codec\.watermark\.pre$", f"{MARK}.encoder_block.pre.3"),
    (r"^audio_codec\.watermark\.encoder_lstm$", f"{MARK}.encoder_block.post.0"),
    (r"^audio_codec\.watermark\.encoder_out$", f"{MARK}.encoder_block.post.2"),
    (r"^audio_codec\.watermark\.message$", f"{MARK}.msg_processor.msg_processor"),
    (r"^audio_codec\.watermark\.decoder_in$", f"{MARK}.decoder_block.pre.0"),
    (r"^audio_codec\.watermark\.decoder_lstm$", f"{MARK}.decoder_block.pre.1"),
    (r"^audio_codec\.watermark\.post$", f"{MARK}.decoder_block.post.1"),
    (r"^transformer\.([yt])_embedder", r"transformer.\1_embedder.projection"),
    (r"^transformer\.x_embedder", "transformer.x_embedder.block"),
    (r"^vision_encoder", "vision_encoder.model.visual"),
    (r"\.visual\.blocks\.", ".visual.transformer.resblocks."),
    (r"\.attn_pool\.out_proj$", ".attn_pool.attn.out_proj"),
]


def text_source_name(name: str) -> str:
    """The name in T5's weights of one of our text encoder's modules."""
    for pattern, source in TEXT_RENAMED:
        name = re.sub(pattern, source, name)
    return name


TEXT_RENAMED = [
    (r"^relative_attention_bias$", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias"),
    (r"^final_norm$", "encoder.final_layer_norm"),
    (r"^blocks\.(\d+)", r"encoder.block.\1"),
    (r"\.attention_norm$", ".layer.0.layer_norm"),
    (r"\.attention\b", ".layer.0.SelfAttention"),
    (r"\.ffn_norm$", ".layer.1.layer_norm"),
    (r"\.(wi|wo)$", r".layer.1.DenseReluDense.\1"),
]
