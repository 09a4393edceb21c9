"""ImageBind's checkpoint: its names, and the towers that are left out of it.

Source: facebookresearch/ImageBind (imagebind/models/imagebind_model.py), whose `imagebind_huge`
the file belongs to. It comes from https://dl.fbaipublicfiles.com/imagebind/imagebind_huge.pth,
without a configuration; a config.json beside it holds other sizes, if any.
"""

import re
from dataclasses import dataclass

from mlx_sam_audio.loading.strict_json import read_json
from mlx_sam_audio.models.config import Heads, Layers, Width
from mlx_sam_audio.models.imagebind import ImageBindConfig, ImageBindNetwork, TowerConfig
from mlx_sam_audio.models.schema import parse

from .rules import Checkpoint, Part
from .sources import Source
from .torch_file import TorchWeights

NAME = "ImageBind"
MODEL_TYPE = ImageBindConfig.model_type
WEIGHTS = "imagebind_huge.pth"
REPOS = {}
MARKS = set()  # known by its weights' name
OTHERS = {
    "text": "a ranker of sounds by text is not what it is used for",
    "depth": "there is no depth in a video",
    "thermal": "there is no temperature in a video",
    "imu": "there are no motion sensors in a video",
}
LEFT_OUT = {
    **{rf"modality_\w+\.{tower}\.": reason for tower, reason in OTHERS.items()},
    r"modality_postprocessors\.audio\.": "a factor, which no angle depends on",
}


@dataclass(frozen=True)
class Sizes:
    """The arguments of ImageBindModel by which `imagebind_huge` differs from others."""

    vision_embed_dim: Width = 1280
    vision_num_blocks: Layers = 32
    vision_num_heads: Heads = 16
    audio_embed_dim: Width = 768
    audio_num_blocks: Layers = 12
    audio_num_heads: Heads = 12
    out_embed_dim: Width = 1024


PLACES = {  # in a tower
    "stem_norm": r"modality_preprocessors.\1.rgbt_stem.norm_layer",
    "pre_norm": r"modality_trunks.\1.pre_transformer_layer.0",
    "norm": r"modality_heads.\1.0",
    "proj": r"modality_heads.\1.2",
    r"blocks\.(.*)": r"modality_trunks.\1.blocks.\2",
}


def checkpoint(source: Source, dtype: str | None) -> Checkpoint:
    path = source.folder / "config.json"
    sizes = parse(Sizes, read_json(path) if path.exists() else {}, path)
    audio = tower_config(
        sizes, sizes.audio_embed_dim, sizes.audio_num_heads, sizes.audio_num_blocks
    )
    vision = tower_config(
        sizes, sizes.vision_embed_dim, sizes.vision_num_heads, sizes.vision_num_blocks
    )
    weights = TorchWeights(source.file(WEIGHTS))
    config = ImageBindConfig(audio, vision, dtype or weights.dtype).checked(path)
    return Checkpoint(
        config=config,
        network=ImageBindNetwork(config),
        parts=(Part("", weights, source_name, LEFT_OUT),),
        copies=(),
        origin=lambda: {"checkpoint": source.describe(WEIGHTS)},
    )


def tower_config(sizes: Sizes, dim: int, n_heads: int, n_layers: int) -> TowerConfig:
    return TowerConfig(dim, n_heads, n_layers, 4 * dim, sizes.out_embed_dim)


def source_name(name: str) -> str:
    for ours, place in PLACES.items():
        if match := re.fullmatch(rf"(audio|vision)\.{ours}", name):
            return match.expand(place)
    return f"modality_preprocessors.{name}"
