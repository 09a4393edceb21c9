"""Shapes and rates of a converted model: what `config.json` in its folder holds, strictly.

Architecture values have no defaults here; the converter writes them all.
"""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path

from .errors import SAMAudioError

FORMAT = 1
DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class CodecConfig:
    sample_rate: int
    encoder_dim: int
    encoder_rates: tuple[int, ...]
    latent_dim: int
    decoder_dim: int
    decoder_rates: tuple[int, ...]
    codebook_dim: int  # channels C of the latents
    watermark: bool
    watermark_rates: tuple[int, ...]

    @property
    def hop_length(self) -> int:
        return math.prod(self.encoder_rates)


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
    dim: int  # width of one frame's vector; the encoder itself is not converted


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
class ModelConfig:
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

    def to_dict(self) -> dict:
        return {"model_type": "sam_audio", "format": FORMAT, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, values: dict, where: str) -> "ModelConfig":
        """Raises SAMAudioError that names an unknown, missing or mistyped key."""
        values = dict(values)
        kind, version = values.pop("model_type", None), values.pop("format", None)
        if kind != "sam_audio" or version is None:
            raise SAMAudioError(
                f"{where} is not a converted model: convert the checkpoint first with "
                "`python -m convert --hf-path <folder or repo> --mlx-path <new folder>`"
            )
        if version != FORMAT:
            raise SAMAudioError(
                f"{where} has format {version}, this version reads {FORMAT}: convert it again"
            )
        config = parse(cls, values, where)
        if config.dtype not in DTYPES:
            raise SAMAudioError(f"{where}: dtype is {config.dtype!r}, expected one of {DTYPES}")
        return config

    @classmethod
    def read(cls, folder: Path) -> "ModelConfig":
        path = folder / "config.json"
        try:
            values = json.loads(path.read_text())
        except FileNotFoundError:
            raise SAMAudioError(
                f"{folder} holds no config.json: it is not a model folder"
            ) from None
        except (OSError, ValueError) as error:
            raise SAMAudioError(f"cannot read {path}: {error}") from None
        if not isinstance(values, dict):
            raise SAMAudioError(f"{path} holds no JSON object")
        return cls.from_dict(values, str(path))


SECTIONS = {
    "codec": CodecConfig,
    "text": TextConfig,
    "transformer": TransformerConfig,
    "vision": VisionConfig,
    "vocabulary": VocabularyConfig,
    "quantisation": QuantisationConfig,
}


def parse(cls, values: dict, where: str):
    """A dataclass from a JSON object; every field present, no key left over."""
    names = {field.name for field in dataclasses.fields(cls)}
    for problem, keys in (("unknown", set(values) - names), ("missing", names - set(values))):
        if keys:
            raise SAMAudioError(f"{where}: {problem} {', '.join(sorted(keys))}")
    parsed = {}
    for name, value in values.items():
        if name in SECTIONS and isinstance(value, dict):
            value = parse(SECTIONS[name], value, f"{where}, {name}")
        parsed[name] = tuple(value) if isinstance(value, list) else value
    return cls(**parsed)
