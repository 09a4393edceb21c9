"""CLAP's checkpoint: its sizes, its names, and what is left out of it.

Source: LAION-AI/CLAP (clap_module/model.py, htsat.py). The file is what a training saved: it says
nothing of its sizes, so that they are read off its tensors; those of the text tower are
RoBERTa's, whose tokenizer comes with them. Only models without fusion are supported.
"""

import re

from mlx_sam_audio.clap import ClapNetwork
from mlx_sam_audio.config import ClapConfig, HTSATConfig, RobertaConfig, read_json
from mlx_sam_audio.errors import SAMAudioError

from .pe_a_frame import known
from .rules import Checkpoint, Part
from .sources import Source, TorchWeights

NAME = "CLAP"
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
ROBERTA = dict(
    vocab_size=50_265, hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
    num_attention_heads=12, layer_norm_eps=1e-5, max_position_embeddings=514, pad_token_id=1,
)  # fmt: skip
ROBERTA_FIXED = dict(
    model_type="roberta", hidden_act="gelu", type_vocab_size=1, position_embedding_type="absolute",
)  # fmt: skip
MAX_TOKENS = 77  # a constant of the reference


def recognises(source: Source) -> bool:
    return source.repo == REPOS["clap"][0] or (source.folder / WEIGHTS).is_file()


def checkpoint(source: Source, dtype: str) -> Checkpoint:
    path = source.file(WEIGHTS)
    local = source.folder / "roberta-base"
    roberta = Source.find(str(local) if local.is_dir() else TEXT, ["config.json", "tokenizer.json"])
    text, tokenizer = roberta.file("config.json"), roberta.file("tokenizer.json")
    weights = TorchWeights(path, "state_dict")
    audio = audio_config(weights.shapes, path)
    config = ClapConfig(
        audio=audio,
        text=text_config(read_json(text)),
        joint_dim=shape(weights.shapes, "audio_projection.0.weight", path)[0],
        dtype=dtype,
    )
    return Checkpoint(
        config=config,
        network=ClapNetwork(config),
        parts=(Part("", weights, source_name, LEFT_OUT),),
        copies=(tokenizer,),
        origin={
            "checkpoint": source.describe(path),
            "tokenizer": roberta.describe(text, tokenizer),
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


def shape(shapes: dict[str, tuple], name: str, path) -> tuple:
    try:
        return shapes[f"module.{name}"]
    except KeyError:
        raise SAMAudioError(f"{path} is no CLAP with HTS-AT: it lacks module.{name}") from None


def audio_config(shapes: dict[str, tuple], path) -> HTSATConfig:
    table = r"module\.audio_branch\.layers\.(\d+)\.blocks\.\d+\.attn\.relative_position_bias_table"
    found = [
        (match[1], size[1]) for name, size in shapes.items() if (match := re.match(table, name))
    ]
    stages = [[heads for stage, heads in found if stage == str(i)] for i in range(4)]
    if not all(stages):
        raise SAMAudioError(f"{path} is no CLAP with HTS-AT: it lacks some of four stages")
    spectrum, bins = shape(shapes, "audio_branch.logmel_extractor.melW", path)
    return HTSATConfig(
        sample_rate=48_000,
        clip_samples=480_000,
        n_fft=2 * (spectrum - 1),
        hop_length=480,
        mel_bins=bins,
        image_size=256,
        patch_size=4,
        dim=shape(shapes, "audio_branch.patch_embed.proj.weight", path)[0],
        depths=tuple(map(len, stages)),
        n_heads=tuple(stage[0] for stage in stages),
        window=8,
        eps=1e-5,
    )


def text_config(given: dict) -> RobertaConfig:
    values = known(given, ROBERTA, ROBERTA_FIXED, "roberta-base")
    return RobertaConfig(
        vocab_size=values["vocab_size"],
        dim=values["hidden_size"],
        n_heads=values["num_attention_heads"],
        n_layers=values["num_hidden_layers"],
        ffn_dim=values["intermediate_size"],
        eps=values["layer_norm_eps"],
        max_positions=values["max_position_embeddings"],
        pad_token=values["pad_token_id"],
        max_tokens=MAX_TOKENS,
    )
