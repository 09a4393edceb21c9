"""CLAP's checkpoint: its sizes, its names, and what is left out of it.

Source: LAION-AI/CLAP (clap_module/model.py, htsat.py). The file is what a training saved: it says
nothing of its sizes, so that they are read off its tensors; those of the text tower are
RoBERTa's, whose tokenizer comes with them. Only models without fusion are supported.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlx_sam_audio.errors import SAMAudioError
from mlx_sam_audio.loading.strict_json import read_json
from mlx_sam_audio.loading.tokenizers import JSONTokenizer
from mlx_sam_audio.models.clap import ClapConfig, ClapNetwork
from mlx_sam_audio.models.config import Epsilon, Heads, Layers, Positions, Token, Vocabulary, Width
from mlx_sam_audio.models.htsat import HTSATConfig
from mlx_sam_audio.models.roberta import RobertaConfig
from mlx_sam_audio.models.schema import Lenient, parse

from .rules import Checkpoint, Part
from .sources import Source
from .torch_file import TorchWeights

NAME = "CLAP"
MODEL_TYPE = ClapConfig.model_type
REPOS = {"clap": ("lukewys/laion_clap", None)}
MARKS = set()  # there is no config.json: see `recognises`
WEIGHTS = "630k-best.pt"
TEXT = "FacebookAI/roberta-base"
LEFT_OUT = {
    r"module\.logit_scale_[at]$": "scales of the training's loss",
    r"module\.(audio|text)_transform\.": "a head that the similarity does not use",
    r"module\.audio_branch\.(tscam_conv|head)\.": "the classifier",
    r"module\.audio_branch\.spectrogram_extractor\.": "a Fourier transform as convolutions",
    r"module\.audio_branch\.bn0\.num_batches_tracked$": "a counter of the training",
    r"module\.audio_branch\.layers\..*\.(relative_position_index|attn_mask)$": "constants",
    r"module\.text_branch\.embeddings\.position_ids$": "constants",
}
NAMES = {  # ours -> theirs
    r"embeddings\.words": "embeddings.word_embeddings",
    r"embeddings\.positions": "embeddings.position_embeddings",
    r"embeddings\.types": "embeddings.token_type_embeddings",
    r"embeddings\.norm": "embeddings.LayerNorm",
    r"layers\.(\d+)\.(query|key|value)": r"encoder.layer.\1.attention.self.\2",
    r"layers\.(\d+)\.out": r"encoder.layer.\1.attention.output.dense",
    r"layers\.(\d+)\.attention_norm": r"encoder.layer.\1.attention.output.LayerNorm",
    r"layers\.(\d+)\.fc1": r"encoder.layer.\1.intermediate.dense",
    r"layers\.(\d+)\.fc2": r"encoder.layer.\1.output.dense",
    r"layers\.(\d+)\.norm": r"encoder.layer.\1.output.LayerNorm",
    r"pooler": "pooler.dense",
}
MAX_TOKENS = 77  # a constant of the reference


@dataclass(frozen=True)
class Text(Lenient):
    """RobertaConfig of transformers, for the one network that is written."""

    model_type: Literal["roberta"] = "roberta"
    vocab_size: Vocabulary = 50_265
    hidden_size: Width = 768
    intermediate_size: Width = 3072
    num_hidden_layers: Layers = 12
    num_attention_heads: Heads = 12
    layer_norm_eps: Epsilon = 1e-5
    max_position_embeddings: Positions = 514
    pad_token_id: Token = 1
    hidden_act: Literal["gelu"] = "gelu"
    type_vocab_size: Literal[1] = 1
    position_embedding_type: Literal["absolute"] = "absolute"


def recognises(source: Source) -> bool:
    return source.repo == REPOS["clap"][0] or (source.folder / WEIGHTS).is_file()


def checkpoint(source: Source, dtype: str | None) -> Checkpoint:
    path = source.file(WEIGHTS)
    local = source.folder / "roberta-base"
    roberta = Source.find(str(local) if local.is_dir() else TEXT, known=[TEXT])
    text, tokenizer = roberta.file("config.json"), roberta.file("tokenizer.json")
    weights = TorchWeights(path, "state_dict")
    config = ClapConfig(
        audio=audio_config(weights.shapes, path),
        text=text_config(parse(Text, read_json(text), text)),
        joint_dim=shape(weights.shapes, "audio_projection.0.weight", path, 2)[0],
        dtype=dtype or weights.dtype,
    ).checked(path)
    JSONTokenizer(tokenizer, config.text)  # if it fits
    return Checkpoint(
        config=config,
        network=ClapNetwork(config),
        parts=(Part("", weights, source_name, LEFT_OUT),),
        copies=(tokenizer,),
        origin=lambda: {
            "checkpoint": source.describe(WEIGHTS),
            "tokenizer": roberta.describe(text.name, tokenizer.name),
        },
    )


def source_name(name: str) -> str:
    if name.startswith("text_branch."):
        inner = name.removeprefix("text_branch.")
        for ours, theirs in NAMES.items():
            inner = re.sub(f"^{ours}$", theirs, inner)
        name = f"text_branch.{inner}"
    name = re.sub(r"_projection\.fc([12])$", lambda m: f"_projection.{2 * int(m[1]) - 2}", name)
    return f"module.{name}" if name else "module"


def shape(shapes: dict[str, tuple], name: str, path: Path, dimensions: int) -> tuple:
    found = shapes.get(f"module.{name}", ())
    if len(found) != dimensions:
        raise SAMAudioError(f"{path} is no CLAP with HTS-AT: it lacks module.{name}")
    return found


def audio_config(shapes: dict[str, tuple], path: Path) -> HTSATConfig:
    table = r"module\.audio_branch\.layers\.\d+\.blocks\.\d+\.attn\.relative_position_bias_table"
    found = [
        (name.split(".")[3], shape(shapes, name.removeprefix("module."), path, 2)[1])
        for name in shapes
        if re.fullmatch(table, name)
    ]
    stages = [[heads for stage, heads in found if stage == str(i)] for i in range(4)]
    if not all(stages):
        raise SAMAudioError(f"{path} is no CLAP with HTS-AT: it lacks some of four stages")
    spectrum, bins = shape(shapes, "audio_branch.logmel_extractor.melW", path, 2)
    return HTSATConfig(
        sample_rate=48_000,
        clip_samples=480_000,
        n_fft=2 * (spectrum - 1),
        hop_length=480,
        mel_bins=bins,
        image_size=256,
        patch_size=4,
        dim=shape(shapes, "audio_branch.patch_embed.proj.weight", path, 4)[0],
        depths=tuple(map(len, stages)),
        n_heads=tuple(stage[0] for stage in stages),
        window=8,
        eps=1e-5,
    )


def text_config(given: Text) -> RobertaConfig:
    return RobertaConfig(
        vocab_size=given.vocab_size,
        dim=given.hidden_size,
        n_heads=given.num_attention_heads,
        n_layers=given.num_hidden_layers,
        ffn_dim=given.intermediate_size,
        eps=given.layer_norm_eps,
        max_positions=given.max_position_embeddings,
        pad_token=given.pad_token_id,
        max_tokens=MAX_TOKENS,
    )
