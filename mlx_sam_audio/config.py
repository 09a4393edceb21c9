"""Shapes and rates of a converted model: what `config.json` in its folder holds, strictly.

Architecture values have no defaults here; the converter writes them all.
"""

import dataclasses
import json
import math
import typing
from dataclasses import dataclass
from pathlib import Path

from .errors import SAMAudioError

DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class EncoderConfig:
    """The codec's encoding half."""

    sample_rate: int
    encoder_dim: int
    encoder_rates: tuple[int, ...]
    latent_dim: int
    codebook_dim: int  # channels C of the latents

    @property
    def hop_length(self) -> int:
        return math.prod(self.encoder_rates)


@dataclass(frozen=True)
class CodecConfig(EncoderConfig):
    decoder_dim: int
    decoder_rates: tuple[int, ...]
    watermark: bool
    watermark_rates: tuple[int, ...]


@dataclass(frozen=True)
class TextConfig:
    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    num_buckets: int
    max_distance: int
    eps: float
    max_tokens: int


@dataclass(frozen=True)
class TransformerConfig:
    dim: int
    n_heads: int
    n_layers: int
    ffn_dim: int
    context_dim: int
    frequency_dim: int
    norm_eps: float
    max_positions: int
    out_channels: int


@dataclass(frozen=True)
class VisionConfig:
    dim: int  # width of one frame's vector
    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    pool_heads: int
    mlp_dim: int


@dataclass(frozen=True)
class VocabularyConfig:
    """What a model trained on few sounds understands."""

    sounds: tuple[str, ...]  # for people
    words: tuple[str, ...]  # lower case; a prompt with any other word is refused


@dataclass(frozen=True)
class QuantisationConfig:
    bits: int
    group_size: int  # weights that share a scale and a bias


@dataclass(frozen=True)
class ModernBertConfig:
    vocab_size: int
    dim: int
    n_heads: int
    n_layers: int  # those that are used: the tower may have more
    ffn_dim: int
    eps: float
    global_every: int  # layer i sees the whole prompt if i is a multiple of this
    window: int  # how many tokens to either side the other layers see
    global_theta: float
    local_theta: float
    pad_token: int
    max_tokens: int


@dataclass(frozen=True)
class PETransformerConfig:
    dim: int
    n_heads: int
    n_layers: int
    ffn_dim: int
    norm_eps: float
    max_positions: int  # the class token's included


@dataclass(frozen=True)
class TowerConfig:
    """One of ImageBind's."""

    dim: int
    n_heads: int
    n_layers: int
    ffn_dim: int
    output_dim: int  # of the space that both towers share


@dataclass(frozen=True)
class HTSATConfig:
    sample_rate: int
    clip_samples: int  # heard at once
    n_fft: int
    hop_length: int
    mel_bins: int
    image_size: int  # of the square that the spectrogram is folded to
    patch_size: int
    dim: int  # of the first stage; doubles from stage to stage
    depths: tuple[int, ...]  # blocks of each stage
    n_heads: tuple[int, ...]
    window: int  # tokens to a side
    eps: float


@dataclass(frozen=True)
class RobertaConfig:
    vocab_size: int
    dim: int
    n_heads: int
    n_layers: int
    ffn_dim: int
    eps: float
    max_positions: int  # the two that no token has included
    pad_token: int
    max_tokens: int


class Stored:
    """What a model's config.json holds, beside its `model_type` and `format`."""

    model_type: typing.ClassVar[str]
    format: typing.ClassVar[int]

    def to_dict(self) -> dict:
        kind = {"model_type": self.model_type, "format": self.format}
        return {**kind, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, values: dict, where: str) -> "Stored":
        """Raises SAMAudioError that names an unknown, missing or mistyped key."""
        values = dict(values)
        kind, version = values.pop("model_type", None), values.pop("format", None)
        if kind not in KINDS or version is None:
            raise SAMAudioError(
                f"{where} is not a converted model: convert the checkpoint first with "
                "`python -m convert --hf-path <folder or repo> --mlx-path <new folder>`"
            )
        if kind != cls.model_type:
            raise SAMAudioError(
                f"{where} belongs to {KINDS[kind]}, where {KINDS[cls.model_type]} is needed"
            )
        if version != cls.format:
            raise SAMAudioError(
                f"{where} has format {version}, this version reads {cls.format}: convert it again"
            )
        config = parse(cls, values, where)
        if config.dtype not in DTYPES:
            raise SAMAudioError(f"{where}: dtype is {config.dtype!r}, expected one of {DTYPES}")
        return config

    @classmethod
    def read(cls, folder: Path) -> "Stored":
        path = folder / "config.json"
        return cls.from_dict(read_json(path), str(path))


KINDS = {
    "sam_audio": "a separation model",
    "pe_a_frame": "a span predictor",
    "sam_audio_judge": "a judge",
    "imagebind": "an ImageBind ranker",
    "clap": "a CLAP ranker",
}


@dataclass(frozen=True)
class ModelConfig(Stored):
    codec: CodecConfig
    text: TextConfig
    transformer: TransformerConfig
    vision: VisionConfig | None
    vocabulary: VocabularyConfig | None  # None: any words
    num_anchors: int
    anchor_dim: int
    dtype: str  # of all that is not quantised
    quantisation: QuantisationConfig | None
    sha256: str | None  # of model.safetensors, where a model is shipped with the package

    model_type = "sam_audio"
    format = 2


@dataclass(frozen=True)
class SpanPredictorConfig(Stored):
    sample_rate: int
    hop_length: int  # samples per frame
    channels: int  # of the latents
    transformer: PETransformerConfig
    text: ModernBertConfig
    output_dim: int  # of the space in which frames meet the text
    dtype: str

    model_type = "pe_a_frame"
    format = 1


@dataclass(frozen=True)
class JudgeConfig(Stored):
    codec: EncoderConfig
    text: ModernBertConfig
    transformer: PETransformerConfig  # over the mixture, and over a candidate
    finetune_transformer: PETransformerConfig  # over both and the text
    bottleneck_dim: int
    dtype: str

    model_type = "sam_audio_judge"
    format = 1


@dataclass(frozen=True)
class ImageBindConfig(Stored):
    audio: TowerConfig
    vision: TowerConfig
    dtype: str

    model_type = "imagebind"
    format = 1


@dataclass(frozen=True)
class ClapConfig(Stored):
    audio: HTSATConfig
    text: RobertaConfig
    joint_dim: int  # of the space in which sounds meet texts
    dtype: str

    model_type = "clap"
    format = 1


def read_json(path: Path) -> dict:
    """The JSON object in a file of a model folder."""
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise SAMAudioError(
            f"{path.parent} holds no {path.name}: it is not a model folder"
        ) from None
    except (OSError, ValueError) as error:
        raise SAMAudioError(f"cannot read {path}: {error}") from None
    if not isinstance(values, dict):
        raise SAMAudioError(f"{path} holds no JSON object")
    return values


def parse(cls, values: dict, where: str):
    """A dataclass from a JSON object; every field present, no key left over."""
    names = {field.name for field in dataclasses.fields(cls)}
    for problem, keys in (("unknown", set(values) - names), ("missing", names - set(values))):
        if keys:
            raise SAMAudioError(f"{where}: {problem} {', '.join(sorted(keys))}")
    hints, parsed = typing.get_type_hints(cls), {}
    for name, value in values.items():
        kinds = (hints[name], *typing.get_args(hints[name]))  # of `X | None` too
        section = next(filter(dataclasses.is_dataclass, kinds), None)
        if section and isinstance(value, dict):
            value = parse(section, value, f"{where}, {name}")
        parsed[name] = tuple(value) if isinstance(value, list) else value
    return cls(**parsed)
