"""SAM-Audio's checkpoint: its names, what is left out of it, and what may be missing.

Sources: facebookresearch/sam-audio (sam_audio/model/model.py), dacvae, transformers T5.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from mlx_sam_audio.errors import SAMAudioError
from mlx_sam_audio.loading.store import SIZES
from mlx_sam_audio.loading.strict_json import read_json
from mlx_sam_audio.loading.tokenizers import SentencePieceTokenizer
from mlx_sam_audio.models.quantise import QuantisationConfig
from mlx_sam_audio.models.sam_audio import ModelConfig, Network
from mlx_sam_audio.models.schema import parse
from mlx_sam_audio.models.vision import VisionEncoder

from .groups import ALIGNMENT, CODEC, VISION, WATERMARK, filled, has
from .known import known
from .layouts import MLX_AUDIO, opened
from .rules import Checkpoint, Part
from .safetensors_files import SafetensorsWeights
from .sam_audio_config import Codec, Model, Text, Vision, config, read_t5
from .sources import Source

NAME = "SAM-Audio"
MODEL_TYPE = ModelConfig.model_type
REPOS = {size: (f"facebook/sam-audio-{size}", None) for size in SIZES}  # None: the main branch
MARKS = {"in_channels", "num_anchors", "anchor_embedding_dim", "text_encoder", "vision_encoder"}
LEFT_OUT = {
    r"vision_encoder\.model\.(?!visual\.)": "the text tower of the vision model: nothing uses it",
}
UNSEEN = {
    r"align_masked_video\.conv\.weight": "what is seen, which nothing is without a vision encoder",
}
TEXT_LEFT_OUT = {
    r"decoder\.": "T5's decoder: only its encoder reads the prompt",
    r"lm_head\.": "T5's output layer, which belongs to the decoder",
    r"encoder\.embed_tokens\.": "a copy of `shared`",
}

TEXT_ENCODERS = tuple(
    f"{owner}t5-{size}" for owner in ("", "google-t5/") for size in ("small", "base", "large")
)


def checkpoint(
    source: Source,
    dtype: str | None,
    text_encoder: str | None = None,
    quantisation: QuantisationConfig | None = None,
    places: Mapping[str, str] = MappingProxyType({}),
) -> Checkpoint:
    """text_encoder: a folder or repo with T5, which the checkpoint does not hold. places: where
    else "codec", "video" or "watermark" are taken from."""
    place = f"{source}/{source.config}"
    given = parse(Model, read_json(source.small(source.config)), place)
    wanted = given.text_encoder or Text()
    text = find_text_encoder(source, text_encoder, wanted)
    t5 = read_t5(text.small("config.json"), wanted.dim)
    text_weights, pieces = SafetensorsWeights(text, "model.safetensors"), text.small("spiece.model")
    codec = given.audio_codec or Codec()
    stages = len(codec.encoder_rates)
    others = {option: opened(Source.find(where), stages) for option, where in places.items()}
    main = opened(source, stages, others.get("codec"))
    weights, fillings = main.weights, {}
    for option, second in others.items():
        weights, fillings[option] = filled(weights, source, option, second)
    if not has(weights, CODEC):
        raise SAMAudioError(f"{source} holds no codec: name where to have it with --codec-from")
    if main.layout == MLX_AUDIO:  # which never has a vision encoder, whatever its config says
        given = replace(given, vision_encoder=given.vision_encoder or Vision())
    promised = {VISION, ALIGNMENT} if given.vision_encoder else set()
    promised |= {WATERMARK} if codec.watermark else set()
    found = {group for group in promised if has(weights, group)}
    dtype = dtype or main.weights.dtype
    configured = config(given, t5, dtype, quantisation, promised, found).checked(place)
    network = Network(configured)
    network.vision_encoder = VisionEncoder(configured.vision) if configured.vision else None
    left_out = LEFT_OUT if configured.vision else {**LEFT_OUT, **UNSEEN}
    SentencePieceTokenizer(pieces, configured.text)  # if it fits

    def origin() -> dict:
        read = source.describe(*main.files, source.config)
        told = {"layout": main.layout, "dtype": main.weights.dtype, "known": known(read["sha256"])}
        return {
            "checkpoint": {**read, **told},
            "text_encoder": text.describe("model.safetensors", "spiece.model"),
            **{option: filling.describe() for option, filling in fillings.items()},
        }

    stages = len(configured.codec.decoder_rates)
    return Checkpoint(
        config=configured,
        network=network,
        parts=(
            Part("text_encoder", text_weights, text_source_name, TEXT_LEFT_OUT),
            Part("", weights, lambda name: source_name(name, stages), left_out),
        ),
        copies=(pieces,),
        origin=origin,
    )


def told(source: Source, config: ModelConfig, origin: dict) -> list[str]:
    """What people must know of a converted checkpoint."""
    meta, dtype = origin["checkpoint"]["known"], origin["checkpoint"]["dtype"]
    known_as = f"Meta's {meta.partition('/')[2]}" if meta else "unknown to us"
    lines = [f"the checkpoint of {source} is {known_as}, by its sha256"]
    for option in ("codec", "video", "watermark"):
        if filling := origin.get(option):
            groups, compared = " and ".join(filling["groups"]), ", ".join(filling["compared"])
            if groups:
                lines.append(f"{groups}: taken from {filling['repo']}")
            alike = f"the same as here: {compared}" if compared else "nothing could be compared"
            lines.append(f"{option} of {filling['repo']}: {alike}")
    if config.dtype == "float32" != dtype:
        lines.append(f"float32 holds the {dtype} of {source} as it is")
    if config.missing:
        lines.append(f"it lacks {config.lacks}; {config.remedy}")
    return lines


def find_text_encoder(source: Source, given: str | None, text: Text) -> Source:
    """T5: `given`, a folder inside the source, or the hub's. Other places are not looked at only
    because a checkpoint names them."""
    if given is not None:
        return Source.find(given, known=TEXT_ENCODERS)
    plain = not set("/\\\0") & set(text.name) and not text.name.startswith(".")
    if plain and (source.folder / text.name).is_dir():
        return Source.find(str(source.folder / text.name))
    if text.name not in TEXT_ENCODERS:
        raise SAMAudioError(
            f"the checkpoint wants the text encoder {text.name!r}, which is neither a folder in "
            f"{source.folder} nor T5 of the hub: name a folder or repo with --text-encoder"
        )
    return Source.find(text.name, known=TEXT_ENCODERS)


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
