"""Tiny checkpoints as others publish them: in mlx-audio's layout, and with a codec whose layers
tell the order of their axes, as Meta's sizes do and those of the goldens do not."""

import re

import torch
from mlx.utils import tree_flatten

from convert.groups import WATERMARK, WHERE
from convert.rules import join
from convert.sam_audio import source_name
from convert.sam_audio_config import WATERMARK_RATES
from mlx_sam_audio.models.conv import Conv1d, StridedConv1d, TransposedConv1d
from mlx_sam_audio.models.dacvae import DACVAE, Bottleneck, CodecConfig, Snake
from mlx_sam_audio.models.watermark import LSTM

UNIT = ("act1", "conv1", "act2", "conv2")
UPSAMPLING = re.compile(r"audio_codec\.decoder\.model\.\d+\.block\.[13]\.")


def mlx_audio_name(name: str, stages: int) -> str | None:
    """Of one of the reference's tensors in a model that mlx-audio saved, if it is there."""
    if name.startswith(("vision_encoder.", "align_masked_video.", "text_encoder.")):
        return None
    if name.startswith("audio_codec."):
        name = name.replace("quantizer.", "quantizer_")
        name = re.sub(r"encoder\.block\.0\.(?!block)", "encoder.conv_in.", name)
        name = name.replace(f"c.encoder.block.{stages + 1}.", "c.encoder.snake_out.")
        name = name.replace(f"c.encoder.block.{stages + 2}.", "c.encoder.conv_out.")
        name = name.replace("decoder.model.0.", "decoder.conv_in.")
        name = name.replace("decoder.wm_model.encoder_block.pre.0.", "decoder.snake_out.")
        name = name.replace("decoder.wm_model.encoder_block.pre.1.", "decoder.conv_out.")
        name = re.sub(r"\.(pre|post)\.(\d)\.", r".\1_\2.", name)
        name = re.sub(
            r"c\.encoder\.block\.(\d+)\.block\.(\d)\.(?:block\.(\d)\.)?",
            lambda m: (
                f"c.encoder.blocks.{int(m[1]) - 1}."
                + (
                    f"res{int(m[2]) + 1}.{UNIT[int(m[3])]}."
                    if m[3]
                    else ("snake.", "conv.")[m[2] > "3"]
                )
            ),
            name,
        )
        name = re.sub(
            r"decoder\.model\.(\d+)\.block\.(\d+)\.(?:block\.(\d)\.)?",
            lambda m: (
                f"decoder.blocks.{int(m[1]) - 1}.block_{m[2]}."
                + (f"{UNIT[int(m[3])]}." if m[3] else "")
            ),
            name,
        )
        parts = {"weight_ih": "Wx", "weight_hh": "Wh", "bias_ih": "bias", "bias_hh": "bias"}
        name = re.sub(
            r"lstm\.(\w+_[ih]h)_l(\d)", lambda m: f"lstm.layers.{m[2]}.{parts[m[1]]}", name
        )
    return name


def mlx_audio_layout(state: dict) -> dict:
    """A checkpoint of the reference as mlx-audio saves it: MLX's axes by kind of layer."""
    stages, made = 4, {}
    for name, value in state.items():
        new = mlx_audio_name(name, stages)
        if new is None:
            continue
        if value.ndim == 3:
            up = UPSAMPLING.match(name) is not None
            value = value.permute(1, 2, 0) if up else value.permute(0, 2, 1)
        made[new] = made[new] + value if new in made else value.contiguous()
    return made


class Normed(dict):
    """Has what the reference's checkpoint has of two forms: all of its codec but the watermark is
    weight-normed."""

    def __contains__(self, name: str) -> bool:
        normed = name.startswith("audio_codec.") and not re.match(WHERE[WATERMARK], name)
        return normed and name.endswith(".weight_g")


def plain_codec(config: dict) -> dict:
    """Random tensors of the reference's codec for a config.json, whose codec becomes wider."""
    given = config["audio_codec"]
    given |= dict(encoder_dim=6, decoder_dim=288)
    names = (
        "sample_rate encoder_dim encoder_rates latent_dim codebook_dim decoder_dim decoder_rates"
    )
    codec = CodecConfig(
        **{name: given[name] for name in names.split()},
        watermark=True,
        watermark_rates=WATERMARK_RATES,
    )
    state, torch_random = {}, torch.Generator().manual_seed(0)

    def add(name: str, *shape: int, scale: float = 0.1) -> None:
        state[name] = scale * torch.randn(shape, generator=torch_random)

    def convolution(name: str, shape: tuple[int, ...], bias: int) -> None:
        if f"{name}.weight_g" in Normed():
            add(f"{name}.weight_v", *shape)
            norm = state[f"{name}.weight_v"].flatten(1).norm(dim=1)
            state[f"{name}.weight_g"] = norm[:, None, None] * 1.1
        else:
            add(f"{name}.weight", *shape)
        add(f"{name}.bias", bias)

    for inner, module in DACVAE(codec).named_modules():
        name = source_name(join("audio_codec", inner), len(codec.decoder_rates))
        if isinstance(module, Bottleneck):
            channels, latent = module.in_proj.weight.shape
            convolution(f"{name}.in_proj", (2 * channels, latent, 1), 2 * channels)
            convolution(f"{name}.out_proj", (latent, channels, 1), latent)
        elif isinstance(module, Conv1d):
            outputs, kernel, inputs = module.weight.shape
            convolution(name, (outputs, inputs, kernel), outputs)
        elif isinstance(module, StridedConv1d):
            outputs, _, wide = module.weight.shape
            stride = module._stride
            convolution(name, (outputs, wide // stride, 2 * stride), outputs)
        elif isinstance(module, TransposedConv1d):
            wide, _, inputs = module.weight.shape
            stride = module._stride
            convolution(name, (inputs, wide // stride, 2 * stride), wide // stride)
        elif isinstance(module, Snake):
            state[f"{name}.alpha"] = (
                torch.rand(1, len(module.alpha), 1, generator=torch_random) + 0.5
            )
        elif isinstance(module, LSTM):
            for i, layer in enumerate(module.layers):
                for key, value in (("weight_ih", layer.Wx), ("weight_hh", layer.Wh)):
                    add(f"{name}.lstm.{key}_l{i}", *value.shape)
                for key in ("bias_ih", "bias_hh"):
                    add(f"{name}.lstm.{key}_l{i}", *layer.bias.shape)
        elif inner == "watermark.message":
            add(f"{name}.weight", *dict(tree_flatten(module.parameters()))["weight"].shape)
    return state
