"""audiobox-aesthetics' checkpoint: its configuration, its sizes, and its names.

Source: facebookresearch/audiobox-aesthetics (model/aes.py, wavlm.py). The sizes of its encoder are
not in the configuration: they are read off the tensors.
"""

import math
import re
from dataclasses import dataclass
from typing import Annotated, Literal

from mlx_sam_audio.errors import SAMAudioError
from mlx_sam_audio.loading.strict_json import read_json
from mlx_sam_audio.models.aesthetics import (
    AestheticsConfig,
    AestheticsNetwork,
    Targets,
    WavLMConfig,
)
from mlx_sam_audio.models.config import Layers
from mlx_sam_audio.models.schema import Lenient, parse

from .rules import Checkpoint, Part
from .safetensors_files import SafetensorsWeights
from .sources import Source

NAME = "audiobox-aesthetics"
MODEL_TYPE = AestheticsConfig.model_type
REPOS = {"aesthetics": ("facebook/audiobox-aesthetics", None)}
MARKS = {"target_transform"}
LEFT_OUT = {r"wavlm_model\.mask_emb$": "stands for what the training hides"}
STRIDES = (5, 2, 2, 2, 2, 2, 2)  # constants of the original
MAX_DISTANCE = 800
ENCODER = "wavlm_model"
NAMES = {  # ours -> theirs
    r"feature_extractor\.convs\.(\d+)": r"feature_extractor.conv_layers.\1.0",
    r"feature_extractor\.norm": "feature_extractor.conv_layers.0.2",
    r"pos_conv": "encoder.pos_conv.0",
    r"norm": "encoder.layer_norm",
    r"relative_attention_bias": "encoder.layers.0.self_attn.relative_attention_bias",
    r"layers\.(.*)": r"encoder.layers.\1",
}


@dataclass(frozen=True)
class Model(Lenient):
    """The original's arguments. Of what is Literal, others are not supported."""

    target_transform: Targets
    proj_ln: Literal[True]
    proj_num_layer: Annotated[int, 1, 2**6] = 1
    proj_act_fn: Literal["gelu"] = "gelu"
    proj_dropout: Annotated[float, 0, 1] = 0.0  # a module of its own, if there is any
    nth_layer: Layers = 13
    use_weighted_layer_sum: Literal[True] = True
    normalize_embed: Literal[True] = True
    output_dim: Literal[1] = 1


def checkpoint(source: Source, dtype: str | None) -> Checkpoint:
    path = source.file("config.json")
    given = parse(Model, read_json(path), path)
    weights = SafetensorsWeights(source, "model.safetensors")
    encoder = encoder_config(weights.shapes, source)
    if given.nth_layer != encoder.n_layers + 1:
        raise SAMAudioError(
            f"{path}: nth_layer is {given.nth_layer}: only all {encoder.n_layers + 1} states of "
            "the encoder are supported"
        )
    config = AestheticsConfig(
        encoder=encoder,
        head_layers=given.proj_num_layer,
        targets=given.target_transform,
        dtype=dtype or weights.dtype,
    ).checked(path)
    step = 4 if given.proj_dropout else 3  # modules of a head's layer
    return Checkpoint(
        config=config,
        network=AestheticsNetwork(config),
        parts=(Part("", weights, lambda name: source_name(name, step), LEFT_OUT),),
        copies=(),
        origin=lambda: {"checkpoint": source.describe(*weights.files, path.name)},
    )


def source_name(name: str, step: int) -> str:
    if match := re.fullmatch(r"(proj_layer\.\w+)\.(linears|norms)\.(\d+)", name):
        return f"{match[1]}.{step * int(match[3]) + (match[2] == 'norms')}"
    for ours, theirs in NAMES.items():
        if match := re.fullmatch(rf"{ENCODER}\.{ours}", name):
            return f"{ENCODER}.{match.expand(theirs)}"
    return name


def encoder_config(shapes: dict[str, tuple], where: Source) -> WavLMConfig:
    def shape(name: str, dimensions: int) -> tuple:
        found = shapes.get(f"{ENCODER}.{name}", ())
        if len(found) != dimensions or not math.prod(found):
            raise SAMAudioError(f"{where} holds no WavLM: it lacks {ENCODER}.{name}")
        return found

    convs = [shape(f"feature_extractor.conv_layers.{i}.0.weight", 3) for i in range(len(STRIDES))]
    dim, share, kernel = shape("encoder.pos_conv.0.weight_v", 3)
    buckets, n_heads = shape("encoder.layers.0.self_attn.relative_attention_bias.weight", 2)
    layers = rf"{ENCODER}\.encoder\.layers\.\d+\.fc1\.weight"
    return WavLMConfig(
        channels=convs[0][0],
        kernels=tuple(conv[2] for conv in convs),
        strides=STRIDES,
        dim=dim,
        n_heads=n_heads,
        n_layers=sum(bool(re.fullmatch(layers, name)) for name in shapes),
        ffn_dim=shape("encoder.layers.0.fc1.weight", 2)[0],
        position_kernel=kernel,
        position_groups=dim // share,
        buckets=buckets,
        max_distance=MAX_DISTANCE,
    )
