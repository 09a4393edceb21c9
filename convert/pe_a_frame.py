"""PE-A-Frame's checkpoint: its configuration, its names, and what is left out of it.

Source: facebookresearch/perception_models (core/audio_visual_encoder/config.py, pe.py). Its config
classes ignore keys that they do not know, and so does this file, except for keys that would change
the network. The judge's checkpoint has the same text tower and transformer: see `judge`.
"""

import math
import re

from mlx_sam_audio.config import (
    ModernBertConfig,
    PETransformerConfig,
    SpanPredictorConfig,
    read_json,
)
from mlx_sam_audio.errors import SAMAudioError
from mlx_sam_audio.pe_a_frame import PEAudioFrame

from .rules import Checkpoint, Part
from .sources import SafetensorsWeights, Source

NAME = "PE-A-Frame"
REPOS = {
    f"pe-a-frame-{size}": (f"facebook/pe-a-frame-{size}", "perception_models")
    for size in ("small", "base", "large")
}
MARKS = {"audio_model"}
LEFT_OUT = {r"audio_model\.dac_vae_encoder\.": "the codec: latents come from SAM-Audio's own"}

# defaults of the reference's config classes, for keys that its config.json may omit
CODEC = dict(
    downsampling_ratios=[2, 8, 10, 12], codebook_dim=128, sampling_rate=48_000,
)  # fmt: skip
TRANSFORMER = dict(
    hidden_size=1024, intermediate_size=2752, num_hidden_layers=16, num_attention_heads=8,
    max_position_embeddings=10_000, rms_norm_eps=1e-5,
)  # fmt: skip
TEXT = dict(
    vocab_size=50_368, hidden_size=768, intermediate_size=1152, num_hidden_layers=22,
    num_attention_heads=12, norm_eps=1e-5, global_attn_every_n_layers=3, local_attention=128,
    global_rope_theta=160_000.0, local_rope_theta=10_000.0, pad_token_id=50_283,
)  # fmt: skip
# what stands for a text_model that PE-A-Frame's config.json omits
LARGE_TEXT = dict(
    hidden_size=1024, intermediate_size=2624, num_hidden_layers=28, num_attention_heads=16
)
# the only values for which the networks are written
FIXED = dict(attention_bias=False)
TEXT_FIXED = dict(
    model_type="modernbert", hidden_activation="gelu", norm_bias=False, attention_bias=False,
    mlp_bias=False, layer_types=None, rope_parameters=None,
)  # fmt: skip
MAX_TOKENS = 512  # a constant of the reference's processors


def checkpoint(source: Source, dtype: str) -> Checkpoint:
    path = source.file("config.json")
    values = read_json(path)
    audio = values["audio_model"] or {}
    codec = known(audio.get("dac_vae_encoder") or {}, CODEC, {}, "dac_vae_encoder")
    given_text = values.get("text_model") or LARGE_TEXT
    text = text_config(given_text, values.get("nth_text_layer", 22))
    config = SpanPredictorConfig(
        sample_rate=codec["sampling_rate"],
        hop_length=math.prod(codec["downsampling_ratios"]),
        channels=codec["codebook_dim"],
        transformer=transformer_config(audio.get("audio_transformer") or {}, "audio_transformer"),
        text=text,
        output_dim=values.get("output_dim", 1024),
        dtype=dtype,
    )
    weights, tokenizer = source.file("model.safetensors"), source.file("tokenizer.json")
    left_out = {**LEFT_OUT, **text_left_out(given_text, text)}
    return Checkpoint(
        config=config,
        network=PEAudioFrame(config),
        parts=(Part("", SafetensorsWeights(weights), source_name, left_out),),
        copies=(tokenizer,),
        origin={"checkpoint": source.describe(weights, path, tokenizer)},
    )


def source_name(name: str) -> str:
    return re.sub(r"^(data_proj|audio_transformer)", r"audio_model.\1", name)


def transformer_config(given: dict, where: str) -> PETransformerConfig:
    values = known(given, TRANSFORMER, FIXED, where)
    heads, keys = values["num_attention_heads"], given.get("num_key_value_heads")
    if keys not in (None, heads):
        raise SAMAudioError(f"{where} has {heads} heads, but {keys} of keys: not supported")
    return PETransformerConfig(
        dim=values["hidden_size"],
        n_heads=heads,
        n_layers=values["num_hidden_layers"],
        ffn_dim=values["intermediate_size"],
        norm_eps=values["rms_norm_eps"],
        max_positions=values["max_position_embeddings"],
    )


def text_config(given: dict, layers: int | None) -> ModernBertConfig:
    """layers: which layer's output is read, without the final norm."""
    values = known(given, TEXT, TEXT_FIXED, "text_model")
    if layers is None or not 0 < layers < values["num_hidden_layers"]:
        raise SAMAudioError(
            f"nth_text_layer is {layers}: only a layer before the last of "
            f"{values['num_hidden_layers']} is supported"
        )
    return ModernBertConfig(
        vocab_size=values["vocab_size"],
        dim=values["hidden_size"],
        n_heads=values["num_attention_heads"],
        n_layers=layers,
        ffn_dim=values["intermediate_size"],
        eps=values["norm_eps"],
        global_every=values["global_attn_every_n_layers"],
        window=values["local_attention"] // 2,
        global_theta=values["global_rope_theta"],
        local_theta=values["local_rope_theta"],
        pad_token=values["pad_token_id"],
        max_tokens=MAX_TOKENS,
    )


def text_left_out(given: dict, text: ModernBertConfig) -> dict[str, str]:
    unread = range(text.n_layers, given.get("num_hidden_layers", TEXT["num_hidden_layers"]))
    layers = "|".join(map(str, unread))
    return {
        rf"text_model\.layers\.(?:{layers})\.": "text layers after the one that is read",
        r"text_model\.final_norm\.": "comes after the last text layer",
    }


def known(given: dict, defaults: dict, fixed: dict, where: str) -> dict:
    """The keys that make a difference. Raises SAMAudioError for a network that is not ours."""
    for key, value in fixed.items():
        if given.get(key, value) != value:
            raise SAMAudioError(f"{where}.{key} = {given[key]!r} is not supported")
    return {key: given.get(key, value) for key, value in defaults.items()}
