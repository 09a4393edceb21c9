"""ImageBind's checkpoint: its names, and the towers that are left out of it.

Source: facebookresearch/ImageBind (imagebind/models/imagebind_model.py), whose `imagebind_huge`
the file belongs to. It comes from https://dl.fbaipublicfiles.com/imagebind/imagebind_huge.pth,
without a configuration; a config.json beside it holds other sizes, if any.
"""

import re

from mlx_sam_audio.config import ImageBindConfig, TowerConfig, read_json
from mlx_sam_audio.imagebind_network import ImageBindNetwork

from .rules import Checkpoint, Part
from .sam_audio import complete
from .sources import Source, TorchWeights

NAME = "ImageBind"
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
# the arguments of ImageBindModel by which `imagebind_huge` differs from others
HUGE = dict(
    vision_embed_dim=1280, vision_num_blocks=32, vision_num_heads=16, audio_embed_dim=768,
    audio_num_blocks=12, audio_num_heads=12, out_embed_dim=1024,
)  # fmt: skip
PLACES = {  # in a tower
    "stem_norm": r"modality_preprocessors.\1.rgbt_stem.norm_layer",
    "pre_norm": r"modality_trunks.\1.pre_transformer_layer.0",
    "norm": r"modality_heads.\1.0",
    "proj": r"modality_heads.\1.2",
    r"blocks\.(.*)": r"modality_trunks.\1.blocks.\2",
}


def checkpoint(source: Source, dtype: str) -> Checkpoint:
    path = source.folder / "config.json"
    values = complete(read_json(path) if path.is_file() else {}, HUGE, "config.json")
    towers = {tower: tower_config(values, tower) for tower in ("audio", "vision")}
    config = ImageBindConfig(**towers, dtype=dtype)
    weights = source.file(WEIGHTS)
    return Checkpoint(
        config=config,
        network=ImageBindNetwork(config),
        parts=(Part("", TorchWeights(weights), source_name, LEFT_OUT),),
        copies=(),
        origin={"checkpoint": source.describe(weights)},
    )


def tower_config(values: dict, tower: str) -> TowerConfig:
    return TowerConfig(
        dim=values[f"{tower}_embed_dim"],
        n_heads=values[f"{tower}_num_heads"],
        n_layers=values[f"{tower}_num_blocks"],
        ffn_dim=4 * values[f"{tower}_embed_dim"],
        output_dim=values["out_embed_dim"],
    )


def source_name(name: str) -> str:
    for ours, place in PLACES.items():
        if match := re.fullmatch(rf"(audio|vision)\.{ours}", name):
            return match.expand(place)
    return f"modality_preprocessors.{name}"
