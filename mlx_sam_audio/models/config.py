"""Shapes and rates of a converted model: what `config.json` in its folder holds, strictly.

Architecture values have no defaults here; the converter writes them all. Every number has a range,
wide enough for any model one could think of, so that no file asks for endless work.
"""

import dataclasses
import math
import reprlib
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ..errors import SAMAudioError
from .schema import Wrong, parse, read_json

# the least and the most of a number, or of the length of a tuple or text
Width = Annotated[int, 1, 2**16]
Layers = Annotated[int, 1, 2**9]
Heads = Annotated[int, 1, 2**10]
Vocabulary = Annotated[int, 2, 2**22]
Token = Annotated[int, 0, 2**22]
Tokens = Annotated[int, 2, 2**13]
Positions = Annotated[int, 2, 2**24]
SampleRate = Annotated[int, 100, 2**20]
Rates = Annotated[tuple[Annotated[int, 1, 2**10], ...], 1, 8]
Epsilon = Annotated[float, 1e-30, 1]
Theta = Annotated[float, 1, 1e12]
Word = Annotated[str, 1, 100]
MOST_SAMPLES = 2**16  # in a frame
Dtype = Literal["float32", "float16", "bfloat16"]
DTYPES = typing.get_args(Dtype)


def heads_do_not_fit(dim: int, heads: int, parts: int = 1) -> Wrong:
    """parts: into how many a head's channels are cut, by rotary angles say."""
    pieces = f" in {parts} parts" if parts > 1 else ""
    return {f"a width of {dim} is not {heads} heads{pieces}": dim % (heads * parts)}


@dataclass(frozen=True)
class EncoderConfig:
    """The codec's encoding half."""

    sample_rate: SampleRate
    encoder_dim: Width
    encoder_rates: Rates
    latent_dim: Width
    codebook_dim: Width  # channels C of the latents

    @property
    def hop_length(self) -> int:
        return math.prod(self.encoder_rates)

    def wrong(self) -> Wrong:
        widest = self.encoder_dim * 2 ** len(self.encoder_rates)
        return {
            f"a frame has more than {MOST_SAMPLES} samples": self.hop_length > MOST_SAMPLES,
            "the encoder ends too wide": widest > 2**16,
        }


@dataclass(frozen=True)
class CodecConfig(EncoderConfig):
    decoder_dim: Width
    decoder_rates: Rates
    watermark: bool
    watermark_rates: Annotated[tuple[Annotated[int, 1, 2**10], ...], 0, 8]

    def wrong(self) -> Wrong:
        hop, marked = self.hop_length, math.prod(self.watermark_rates)
        narrowest = self.decoder_dim // 3 // 2 ** len(self.watermark_rates)
        return {
            **super().wrong(),
            "decoder_rates and encoder_rates differ": math.prod(self.decoder_rates) != hop,
            "decoder_dim cannot be halved so often": (
                self.decoder_dim % 2 ** len(self.decoder_rates)
            ),
            "watermark_rates do not fit": self.watermark
            and (not self.watermark_rates or hop % marked or narrowest < 2),
        }


@dataclass(frozen=True)
class TextConfig:
    vocab_size: Vocabulary
    d_model: Width
    d_kv: Width
    d_ff: Width
    num_layers: Layers
    num_heads: Heads
    num_buckets: Annotated[int, 4, 2**16]
    max_distance: Positions
    eps: Epsilon
    max_tokens: Tokens

    def wrong(self) -> Wrong:
        return {
            "the heads are too wide": self.num_heads * self.d_kv > 2**16,
            "num_buckets is no multiple of 4": self.num_buckets % 4,
            "max_distance is too short for num_buckets": self.max_distance <= self.num_buckets // 4,
        }


@dataclass(frozen=True)
class TransformerConfig:
    dim: Width
    n_heads: Heads
    n_layers: Layers
    ffn_dim: Width
    context_dim: Width
    frequency_dim: Width
    norm_eps: Epsilon
    max_positions: Positions
    out_channels: Width

    def wrong(self) -> Wrong:
        return {
            **heads_do_not_fit(self.dim, self.n_heads, 2),
            "context_dim is not dim": self.context_dim != self.dim,
            "frequency_dim is odd": self.frequency_dim % 2,
        }


@dataclass(frozen=True)
class VisionConfig:
    dim: Width  # width of one frame's vector
    image_size: Annotated[int, 1, 2**13]
    patch_size: Annotated[int, 1, 2**8]
    width: Width
    layers: Layers
    heads: Heads
    pool_heads: Heads
    mlp_dim: Width

    def wrong(self) -> Wrong:
        return {
            **heads_do_not_fit(self.width, self.heads, 4),
            **heads_do_not_fit(self.width, self.pool_heads),
            "a head is wider than 1024": self.width // self.heads > 1024,
            "image_size is no multiple of patch_size": self.image_size % self.patch_size,
            "a picture has more than 128 x 128 patches": self.image_size > 128 * self.patch_size,
        }


@dataclass(frozen=True)
class VocabularyConfig:
    """What a model trained on few sounds understands."""

    sounds: Annotated[tuple[Word, ...], 0, 2**12]  # for people
    words: Annotated[tuple[Word, ...], 0, 2**16]  # lower case; a prompt with another is refused


@dataclass(frozen=True)
class QuantisationConfig:
    bits: Literal[4, 6, 8]
    group_size: Literal[32, 64, 128]  # weights that share a scale and a bias


@dataclass(frozen=True)
class ModernBertConfig:
    vocab_size: Vocabulary
    dim: Width
    n_heads: Heads
    n_layers: Layers  # those that are used: the tower may have more
    ffn_dim: Width
    eps: Epsilon
    global_every: Layers  # layer i sees the whole prompt if i is a multiple of this
    window: Token  # how many tokens to either side the other layers see
    global_theta: Theta
    local_theta: Theta
    pad_token: Token
    max_tokens: Tokens

    def wrong(self) -> Wrong:
        return {
            **heads_do_not_fit(self.dim, self.n_heads, 2),
            "pad_token is not in the vocabulary": self.pad_token >= self.vocab_size,
        }


@dataclass(frozen=True)
class PETransformerConfig:
    dim: Width
    n_heads: Heads
    n_layers: Layers
    ffn_dim: Width
    norm_eps: Epsilon
    max_positions: Positions  # the class token's included

    def wrong(self) -> Wrong:
        return heads_do_not_fit(self.dim, self.n_heads, 2)


@dataclass(frozen=True)
class TowerConfig:
    """One of ImageBind's."""

    dim: Width
    n_heads: Heads
    n_layers: Layers
    ffn_dim: Width
    output_dim: Width  # of the space that both towers share

    def wrong(self) -> Wrong:
        return heads_do_not_fit(self.dim, self.n_heads)


@dataclass(frozen=True)
class HTSATConfig:
    sample_rate: SampleRate
    clip_samples: Annotated[int, 1, 2**24]  # heard at once
    n_fft: Annotated[int, 16, 2**16]
    hop_length: Annotated[int, 1, 2**16]
    mel_bins: Annotated[int, 1, 2**10]
    image_size: Annotated[int, 1, 2**12]  # of the square that the spectrogram is folded to
    patch_size: Annotated[int, 1, 2**8]
    dim: Width  # of the first stage; doubles from stage to stage
    depths: Annotated[tuple[Annotated[int, 1, 2**6], ...], 1, 8]  # blocks of each stage
    n_heads: Annotated[tuple[Heads, ...], 1, 8]
    window: Annotated[int, 1, 2**6]  # tokens to a side
    eps: Epsilon

    def wrong(self) -> Wrong:
        stages, side = len(self.depths), self.image_size // self.patch_size
        frames = 1 + self.clip_samples // self.hop_length
        columns = self.image_size**2 // self.mel_bins
        pairs = side**2 * self.window**2 * sum(self.depths)  # of tokens that see each other
        odd = [self.dim * 2**i % heads for i, heads in enumerate(self.n_heads)]
        return {
            "depths and n_heads are not of the same stages": stages != len(self.n_heads),
            "the width of a stage is no multiple of its n_heads": any(odd),
            "the last stage is too wide": self.dim * 2**stages > 2**16,
            "n_fft is odd": self.n_fft % 2,
            "a clip is shorter than n_fft": self.clip_samples < self.n_fft,
            "image_size is no multiple of mel_bins": self.image_size % self.mel_bins,
            "image_size is no multiple of patch_size": self.image_size % self.patch_size,
            "the last stage is not whole windows": side % (2 ** (stages - 1) * self.window),
            "a clip is too long": frames * columns > 2**25,
            "the windows are too large": pairs > 2**25,
        }


@dataclass(frozen=True)
class RobertaConfig:
    vocab_size: Vocabulary
    dim: Width
    n_heads: Heads
    n_layers: Layers
    ffn_dim: Width
    eps: Epsilon
    max_positions: Positions  # the two that no token has included
    pad_token: Token
    max_tokens: Tokens

    def wrong(self) -> Wrong:
        last = self.pad_token + self.max_tokens
        return {
            **heads_do_not_fit(self.dim, self.n_heads),
            "pad_token is not in the vocabulary": self.pad_token >= self.vocab_size,
            "max_tokens are more than max_positions": last >= self.max_positions,
        }


class Stored:
    """What a model's config.json holds, beside its `model_type` and `format`."""

    model_type: typing.ClassVar[str]
    format: typing.ClassVar[int]

    def to_dict(self) -> dict:
        kind = {"model_type": self.model_type, "format": self.format}
        return {**kind, **dataclasses.asdict(self)}

    def checked(self, where: str | Path) -> "Stored":
        """Itself, if all values are in their ranges; `where` they come from. SAMAudioError."""
        return self.from_dict(self.to_dict(), where)

    @classmethod
    def from_dict(cls, values: dict, where: str | Path) -> "Stored":
        """Raises SAMAudioError that names an unknown, missing or mistyped key."""
        values = dict(values)
        kind, version = values.pop("model_type", None), values.pop("format", None)
        if not isinstance(kind, str) or kind not in KINDS or version is None:
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
                f"{where} has format {reprlib.repr(version)}, this version reads {cls.format}: "
                "convert it again"
            )
        return parse(cls, values, where)

    @classmethod
    def read(cls, folder: Path) -> "Stored":
        path = folder / "config.json"
        return cls.from_dict(read_json(path), path)


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
    num_anchors: Annotated[int, 3, 2**10]  # "+", "-" and padding at least
    anchor_dim: Width
    dtype: Dtype  # of all that is not quantised
    quantisation: QuantisationConfig | None

    model_type = "sam_audio"
    format = 3

    def wrong(self) -> Wrong:
        stems = 2 * self.codec.codebook_dim
        return {"out_channels are not two stems": self.transformer.out_channels != stems}


@dataclass(frozen=True)
class SpanPredictorConfig(Stored):
    sample_rate: SampleRate
    hop_length: Annotated[int, 1, MOST_SAMPLES]  # samples per frame
    channels: Width  # of the latents
    transformer: PETransformerConfig
    text: ModernBertConfig
    output_dim: Width  # of the space in which frames meet the text
    dtype: Dtype

    model_type = "pe_a_frame"
    format = 2


@dataclass(frozen=True)
class JudgeConfig(Stored):
    codec: EncoderConfig
    text: ModernBertConfig
    transformer: PETransformerConfig  # over the mixture, and over a candidate
    finetune_transformer: PETransformerConfig  # over both and the text
    bottleneck_dim: Width
    dtype: Dtype

    model_type = "sam_audio_judge"
    format = 2


@dataclass(frozen=True)
class ImageBindConfig(Stored):
    audio: TowerConfig
    vision: TowerConfig
    dtype: Dtype

    model_type = "imagebind"
    format = 2

    def wrong(self) -> Wrong:
        return {"the towers differ in output_dim": self.audio.output_dim != self.vision.output_dim}


@dataclass(frozen=True)
class ClapConfig(Stored):
    audio: HTSATConfig
    text: RobertaConfig
    joint_dim: Width  # of the space in which sounds meet texts
    dtype: Dtype

    model_type = "clap"
    format = 2
