"""The judge's checkpoint: its configuration and what is left out of it; its names are ours.

Source: facebookresearch/sam-audio (sam_audio/model/config.py, judge.py).
"""

from mlx_sam_audio.config import EncoderConfig, JudgeConfig, read_json
from mlx_sam_audio.judge_network import JudgeNetwork

from .pe_a_frame import text_config, text_left_out, transformer_config
from .rules import Checkpoint, Part
from .sam_audio import CODEC, complete
from .sources import Source, TorchWeights

NAME = "SAM-Audio-Judge"
REPOS = {"judge": ("facebook/sam-audio-judge", "sam_audio")}
MARKS = {"finetune_transformer", "bottleneck_dim"}

# defaults of the reference's config class, for keys that its config.json may omit
JUDGE = dict(
    audio_codec=None, transformer=None, text_model=None, finetune_transformer=None,
    nth_text_layer=22, bottleneck_dim=256,
)  # fmt: skip


def checkpoint(source: Source, dtype: str) -> Checkpoint:
    path = source.file("config.json")
    values = complete(read_json(path), JUDGE, "config.json")
    codec = complete(values["audio_codec"] or {}, CODEC, "audio_codec")
    text = text_config(values["text_model"] or {}, values["nth_text_layer"])
    transformers = ("transformer", "finetune_transformer")
    config = JudgeConfig(
        codec=EncoderConfig(
            sample_rate=codec["sample_rate"],
            encoder_dim=codec["encoder_dim"],
            encoder_rates=tuple(codec["encoder_rates"]),
            latent_dim=codec["latent_dim"],
            codebook_dim=codec["codebook_dim"],
        ),
        text=text,
        **{name: transformer_config(values[name] or {}, name) for name in transformers},
        bottleneck_dim=values["bottleneck_dim"],
        dtype=dtype,
    )
    weights = source.file("checkpoint.pt")
    # the reference reads the tokenizer from the main branch, whatever the checkpoint's
    branch = Source.find(source.repo, ["tokenizer.json"]) if source.repo else source
    tokenizer = branch.file("tokenizer.json")
    left_out = text_left_out(values["text_model"] or {}, text)
    return Checkpoint(
        config=config,
        network=JudgeNetwork(config),
        parts=(Part("", TorchWeights(weights), lambda name: name, left_out),),
        copies=(tokenizer,),
        origin={
            "checkpoint": source.describe(weights, path),
            "tokenizer": branch.describe(tokenizer),
        },
    )
