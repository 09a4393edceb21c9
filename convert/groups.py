"""Groups of SAM-Audio's tensors that published weights lack, and where else to have them from.

A group is there whole or not at all, which `rules.plan` sees to. One from a second source is only
taken where both sources have the same tensors of other groups.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mlx_sam_audio.errors import SAMAudioError
from mlx_sam_audio.models.sam_audio import ALIGNMENT, VISION, WATERMARK

from .layouts import Joined, Opened, Peeked, Renamed, Weights, agree
from .sources import Source

CODEC = "codec"
WHERE = {
    ALIGNMENT: r"align_masked_video\.",
    VISION: r"vision_encoder\.model\.visual\.",
    WATERMARK: r"audio_codec\.decoder\."
    r"(?:wm_model\.(?!encoder_block\.pre\.[01]\.)|model\.\d+\.block\.(?:3|6|7|11)\.)",
    CODEC: r"audio_codec\.",
}
# what the alignment makes of an absent video needs no more
CONSTANT = [f"align_masked_video.{key}" for key in ("conv.bias", "layer_norm.weight",
                                                    "layer_norm.bias", "gate")]  # fmt: skip
CODEC_KIN = [
    f"audio_codec.{layer}.bias"
    for layer in ("encoder.block.0", "quantizer.in_proj", "quantizer.out_proj", "decoder.model.0")
]
KIN = {
    "video": ["proj.bias", "memory_proj.bias", "embed_anchors.gate"],
    "watermark": CODEC_KIN,
    "codec": CODEC_KIN,
}
OPTIONS = {"video": (VISION, ALIGNMENT), "watermark": (WATERMARK,), "codec": (CODEC,)}


@dataclass(frozen=True)
class Filling:
    """What was taken from a second source."""

    second: Opened
    groups: Sequence[str]
    compared: Sequence[str]  # tensors that both sources hold
    files: Sequence[str]  # that are read whole, not only a few bytes of them

    def describe(self) -> dict:
        told = self.second.source.describe(*self.files)
        return {**told, "groups": list(self.groups), "compared": list(self.compared)}


def has(weights: Weights, group: str) -> bool:
    return any(re.match(WHERE[group], name) for name in weights.shapes)


def filled(
    weights: Weights, source: Source, option: str, second: Opened
) -> tuple[Weights, Filling]:
    """The weights of `source`, with what `second` has of the groups that they lack.

    option: video, watermark, or codec, which is only compared where there is one. Raises
    SAMAudioError.
    """
    wanted = [group for group in OPTIONS[option] if not has(weights, group)]
    if not wanted and option != CODEC:
        raise SAMAudioError(f"{source} holds the {OPTIONS[option][0]}: leave out --{option}-from")
    groups = [group for group in wanted or OPTIONS[option] if has(second.weights, group)]
    if not groups or ALIGNMENT in set(wanted) - set(groups):
        raise SAMAudioError(f"{second.source} does not hold the {(wanted or OPTIONS[option])[-1]}")
    compared = kin(weights, source, option, second)
    if not wanted:
        return weights, Filling(second, (), compared, ())
    if groups == [ALIGNMENT] and VISION in wanted:
        few = Peeked(second.weights, lambda name: name if name in CONSTANT else None)
        return Joined(weights, few), Filling(second, groups, compared, ())
    pattern = re.compile("|".join(WHERE[group] for group in groups))
    part = Renamed(second.weights, lambda name: name if pattern.match(name) else None)
    return Joined(weights, part), Filling(second, groups, compared, second.files)


def kin(weights: Weights, source: Source, option: str, second: Opened) -> list[str]:
    """The tensors that show that two sources are of one training: those that both hold.

    Of a codec that comes whole from elsewhere there are none. Raises SAMAudioError if they differ.
    """
    others = second.weights
    shared = [name for name in KIN[option] if name in weights.shapes and name in others.shapes]
    for name in shared:
        if not agree(weights.peek(name), others.peek(name), weights.dtype, others.dtype):
            raise SAMAudioError(
                f"{second.source} belongs to another checkpoint than {source}: {name} differs, so "
                f"that --{option}-from takes nothing from it"
            )
    if len(shared) < 2 and (option != CODEC or has(weights, CODEC)):
        raise SAMAudioError(
            f"nothing shows that {second.source} and {source} are of one checkpoint: they do not "
            f"both hold {', '.join(KIN[option])}"
        )
    return shared
