"""SAM-Audio's checkpoint: its configuration, its names, and what is left out of it.

Sources: facebookresearch/sam-audio (sam_audio/model/config.py, model.py), dacvae, transformers T5,
facebookresearch/perception_models (core/vision_encoder/config.py).
"""

import re
from pathlib import Path

from mlx_sam_audio.config import (
    CodecConfig,
    ModelConfig,
    QuantisationConfig,
    TextConfig,
    TransformerConfig,
    VisionConfig,
    read_json,
)
from mlx_sam_audio.errors import SAMAudioError
from mlx_sam_audio.load import SIZES
from mlx_sam_audio.network import Network
from mlx_sam_audio.vision import VisionEncoder

from .rules import Checkpoint, Part
from .sources import SafetensorsWeights, Source, TorchWeights

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

# defaults of the reference's config classes, for keys that its config.json may omit
CODEC = dict(
    encoder_dim=64, encoder_rates=[2, 8, 10, 12], latent_dim=1024, decoder_dim=1536,
    decoder_rates=[12, 10, 8, 2], n_codebooks=16, codebook_size=1024, codebook_dim=128,
    quantizer_dropout=False, sample_rate=48_000, mean=0.0, std=1.0, watermark=True,
)  # fmt: skip
TEXT = dict(name="t5-base", max_length=512, pad_mode="longest", dim=768)
VISION = dict(
    dim=1024, batch_size=300, name="PE-Core-L14-336", normalize_feature=True,
    interpolation_mode="BICUBIC", image_size=336,
)  # fmt: skip
TOWERS = {  # sizes that the checkpoint only names
    "PE-Core-L14-336": dict(patch_size=14, width=1024, layers=24, heads=16),
    "PE-Tiny": dict(patch_size=8, width=16, layers=1, heads=2),  # of tests/golden
}
TRANSFORMER = dict(
    dim=2048, n_heads=16, n_layers=16, dropout=0.1, norm_eps=1e-5, qk_norm=True, fc_bias=False,
    ffn_exp=4, ffn_dim_multiplier=1, multiple_of=64, non_linearity="swiglu", use_rope=True,
    max_positions=10_000, frequency_embedding_dim=256, timestep_non_linearity="swiglu",
    t_block_non_linearity="silu", t_block_bias=True, context_dim=2048,
    context_non_linearity="swiglu", context_embedder_dropout=0.0, context_norm=False,
    out_channels=256, in_channels=None,
)  # fmt: skip
MODEL = dict(
    in_channels=768, audio_codec=None, text_encoder=None, vision_encoder=None, transformer=None,
    num_anchors=3, anchor_embedding_dim=128, visual_ranker=None, text_ranker=None,
    span_predictor="pe-a-frame-large",
)  # fmt: skip
# the only values for which the network is written
FIXED = dict(
    qk_norm=True, fc_bias=False, non_linearity="swiglu", use_rope=True,
    timestep_non_linearity="swiglu", t_block_non_linearity="silu", t_block_bias=True,
    context_non_linearity="swiglu", context_norm=False, in_channels=None,
)  # fmt: skip
WATERMARK_RATES = (8, 5, 4, 2)  # constants of dacvae


def checkpoint(
    source: Source,
    dtype: str,
    text_encoder: str | None = None,
    quantisation: QuantisationConfig | None = None,
) -> Checkpoint:
    """text_encoder: a folder or repo with T5, which the checkpoint does not hold."""
    text = find_text_encoder(source, text_encoder)
    configured = config(source.folder, text.folder, dtype, quantisation)
    stages = len(configured.codec.decoder_rates)
    network = Network(configured)
    network.vision_encoder = VisionEncoder(configured.vision) if configured.vision else None
    weights, text_weights = source.file("checkpoint.pt"), text.file("model.safetensors")
    pieces = text.file("spiece.model")
    return Checkpoint(
        config=configured,
        network=network,
        parts=(
            Part("text_encoder", SafetensorsWeights(text_weights), text_source_name, TEXT_LEFT_OUT),
            Part("", TorchWeights(weights), lambda name: source_name(name, stages), LEFT_OUT),
        ),
        copies=(pieces,),
        origin={
            "checkpoint": source.describe(weights, source.file("config.json")),
            "text_encoder": text.describe(text_weights, pieces),
        },
    )


def find_text_encoder(source: Source, given: str | None) -> Source:
    """T5: `given`, a folder inside the source, or the hub's."""
    patterns = ["config.json", "model.safetensors", "spiece.model"]
    if given is not None:
        return Source.find(given, patterns)
    values = read_json(source.file("config.json")).get("text_encoder") or {}
    name = values.get("name", TEXT["name"])
    inside = source.folder / name
    return Source.find(str(inside) if inside.is_dir() else name, patterns)


def config(
    folder: Path, text_folder: Path, dtype: str, quantisation: QuantisationConfig | None
) -> ModelConfig:
    """Our complete configuration from the reference's config.json and T5's."""
    given = read_json(folder / "config.json")
    values = complete(given, MODEL, "config.json")
    codec = complete(values["audio_codec"] or {}, CODEC, "audio_codec")
    text = complete(values["text_encoder"] or {}, TEXT, "text_encoder")
    transformer = complete(values["transformer"] or {}, TRANSFORMER, "transformer")
    for key, value in FIXED.items():
        if transformer[key] != value:
            raise SAMAudioError(f"transformer.{key} = {transformer[key]!r} is not supported")
    if (codec["mean"], codec["std"]) != (0.0, 1.0) or text["pad_mode"] != "longest":
        raise SAMAudioError("audio_codec.mean, std or text_encoder.pad_mode is not the reference's")
    channels = codec["codebook_dim"]
    if values["in_channels"] != 6 * channels or transformer["out_channels"] != 2 * channels:
        raise SAMAudioError(
            f"in_channels {values['in_channels']} and out_channels {transformer['out_channels']} "
            f"do not fit {channels} latent channels"
        )
    # a missing key means the reference's default, an explicit null a model without vision
    blind = given.get("vision_encoder", {}) is None
    vision = None if blind else complete(values["vision_encoder"] or {}, VISION, "vision_encoder")
    hidden = int(2 * int(transformer["ffn_exp"] * transformer["dim"]) / 3)
    hidden = int(transformer["ffn_dim_multiplier"] * hidden)
    multiple = transformer["multiple_of"]
    return ModelConfig(
        codec=CodecConfig(
            sample_rate=codec["sample_rate"],
            encoder_dim=codec["encoder_dim"],
            encoder_rates=tuple(codec["encoder_rates"]),
            latent_dim=codec["latent_dim"],
            decoder_dim=codec["decoder_dim"],
            decoder_rates=tuple(codec["decoder_rates"]),
            codebook_dim=channels,
            watermark=codec["watermark"],
            watermark_rates=WATERMARK_RATES if codec["watermark"] else (),
        ),
        text=text_config(read_json(text_folder / "config.json"), text),
        transformer=TransformerConfig(
            dim=transformer["dim"],
            n_heads=transformer["n_heads"],
            n_layers=transformer["n_layers"],
            ffn_dim=multiple * -(-hidden // multiple),
            context_dim=transformer["context_dim"],
            frequency_dim=transformer["frequency_embedding_dim"],
            norm_eps=transformer["norm_eps"],
            max_positions=transformer["max_positions"],
            out_channels=transformer["out_channels"],
        ),
        vision=vision_config(vision) if vision else None,
        vocabulary=None,
        num_anchors=values["num_anchors"],
        anchor_dim=values["anchor_embedding_dim"],
        dtype=dtype,
        quantisation=quantisation,
        sha256=None,
    )


def vision_config(vision: dict) -> VisionConfig:
    known = dict(normalize_feature=[True], interpolation_mode=["BICUBIC"], name=TOWERS)
    for key, values in known.items():
        if vision[key] not in values:
            raise SAMAudioError(f"vision_encoder.{key} = {vision[key]!r} is not supported")
    tower = TOWERS[vision["name"]]
    return VisionConfig(
        dim=vision["dim"],
        image_size=vision["image_size"],
        pool_heads=8,
        mlp_dim=4 * tower["width"],
        **tower,
    )


def text_config(t5: dict, text: dict) -> TextConfig:
    if t5.get("model_type") != "t5" or t5.get("feed_forward_proj", "relu") != "relu":
        raise SAMAudioError("the text encoder is not a T5 with a relu feed-forward layer")
    if t5["d_model"] != text["dim"]:
        raise SAMAudioError(
            f"the text encoder is {t5['d_model']} wide, the checkpoint wants {text['dim']}"
        )
    return TextConfig(
        vocab_size=t5["vocab_size"],
        d_model=t5["d_model"],
        d_kv=t5["d_kv"],
        d_ff=t5["d_ff"],
        num_layers=t5["num_layers"],
        num_heads=t5["num_heads"],
        num_buckets=t5["relative_attention_num_buckets"],
        max_distance=t5.get("relative_attention_max_distance", 128),
        eps=t5.get("layer_norm_epsilon", 1e-6),
        max_tokens=text["max_length"],
    )


def complete(given: dict, defaults: dict, where: str) -> dict:
    unknown = set(given) - set(defaults)
    if unknown:
        raise SAMAudioError(f"{where} has unknown keys: {', '.join(sorted(unknown))}")
    return {**defaults, **given}


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
