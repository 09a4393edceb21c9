"""The demo's SAM-Audio, made of the reference's modules, and its checkpoints.

The reference must be importable; of what it imports itself, only these matter here:

    pip install torch transformers sentencepiece einops
    pip install --no-deps git+https://github.com/facebookresearch/sam-audio
    pip install --no-deps git+https://github.com/facebookresearch/dacvae
"""

import io
import json
import sys
from pathlib import Path
from unittest.mock import MagicMock

import torch
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from torch import nn
from torch.nn.utils import remove_weight_norm
from transformers import T5Config, T5EncoderModel

from mlx_sam_audio.demo import sounds

UNUSED = (  # imported by the reference for video, ranking and files of audio
    "audiotools", "audiotools.ml", "core", "core.audio_visual_encoder",
    "core.audio_visual_encoder.config", "core.audio_visual_encoder.transformer",
    "core.vision_encoder", "torchaudio", "torchcodec", "torchcodec.decoders",
    "torchcodec.encoders", "torchdiffeq", "torchvision",
)  # fmt: skip
stubs = {name: MagicMock() for name in UNUSED if name not in sys.modules}
sys.modules.update(stubs)
if "audiotools" in stubs:  # dacvae derives from this class, and adds to its lists
    base = type("BaseModel", (nn.Module,), dict(INTERN=[], EXTERN=[]))
    stubs["audiotools"].ml.BaseModel = stubs["audiotools.ml"].BaseModel = base

from sam_audio.model.codec import DACVAE  # noqa: E402
from sam_audio.model.config import DACVAEConfig, TransformerConfig  # noqa: E402
from sam_audio.model.model import EmbedAnchors, SAMAudio, SinusoidalEmbedding  # noqa: E402
from sam_audio.model.transformer import DiT  # noqa: E402

for name in stubs:  # others shall not take them for the real ones
    del sys.modules[name]

CHANNELS, PAD, END = 40, 0, 1
CONFIG = dict(
    in_channels=6 * CHANNELS,
    audio_codec=dict(
        encoder_dim=16,
        encoder_rates=[8, 4, 4],
        latent_dim=64,
        decoder_dim=128,
        decoder_rates=[4, 4, 8],
        codebook_dim=CHANNELS,
        sample_rate=sounds.SAMPLE_RATE,
    ),
    text_encoder=dict(name="t5", max_length=512, pad_mode="longest", dim=64),
    transformer=dict(
        dim=192,
        n_heads=4,
        n_layers=4,
        multiple_of=16,
        context_dim=192,
        frequency_embedding_dim=64,
        out_channels=2 * CHANNELS,
        dropout=0.0,
    ),
    num_anchors=3,
    anchor_embedding_dim=32,
)
TEXT = dict(d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, dropout_rate=0.0)


class Network(nn.Module):
    """The reference's SAMAudio, but for video, rankers and the watermark.

    forward(noisy (B, N, 2C), mixture twice (B, N, 2C), text (B, L, D), t (B,), ...) -> velocity.
    """

    forward, align_inputs = SAMAudio.forward, SAMAudio.align_inputs

    def __init__(self, config: dict, vocabulary: int):
        super().__init__()
        width = config["transformer"]["dim"]
        self.audio_codec = DACVAE(DACVAEConfig(**config["audio_codec"]))
        strip(self.audio_codec)
        self.text_encoder = T5EncoderModel(T5Config(vocab_size=vocabulary, **TEXT))
        self.transformer = DiT(TransformerConfig(**config["transformer"]))
        self.proj = nn.Linear(config["in_channels"], width)
        self.embed_anchors = EmbedAnchors(
            config["num_anchors"], config["anchor_embedding_dim"], width
        )
        self.memory_proj = nn.Linear(config["text_encoder"]["dim"], width)
        self.timestep_emb = SinusoidalEmbedding(width)

    def align_masked_video(self, x: torch.Tensor, video: None) -> torch.Tensor:
        return x

    def encode(self, waves: torch.Tensor) -> torch.Tensor:
        """(B, T) -> (B, N, C), the mean of the bottleneck."""
        mean = self.audio_codec.quantizer.in_proj(self.audio_codec.encoder(waves[:, None]))
        return mean.chunk(2, dim=1)[0].transpose(1, 2)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """(B, N, C) -> (B, T)."""
        codec = self.audio_codec
        x = codec.quantizer.out_proj(z.transpose(1, 2))
        for layer in codec.decoder.model:
            x = layer(x)
        return codec.decoder.wm_model.encoder_block.pre(x)[:, 0]


def strip(codec: nn.Module) -> None:
    """Take the watermark out of a codec, and the weight norm, which only slows it down."""
    final = codec.decoder.wm_model.encoder_block
    final.pre, final.post = final.pre[:3], nn.Identity()
    watermark = codec.decoder.wm_model
    watermark.msg_processor = watermark.decoder_block = nn.Identity()
    for stage in codec.decoder.model[1:]:
        for i in (3, 6, 7, 11):
            stage.block[i] = nn.Identity()
    for module in codec.modules():
        if hasattr(module, "weight_g"):
            remove_weight_norm(module)


def normed(weights: dict) -> dict:
    """Codec weights under the names of the reference, whose convolutions have a weight norm."""
    named = {}
    for name, value in weights.items():
        if name.startswith("audio_codec.") and name.endswith(".weight"):
            named[name + "_g"] = value.flatten(1).norm(dim=1)[:, None, None]
            named[name + "_v"] = value
        else:
            named[name] = value
    return named


def folded(weights: dict) -> dict:
    """What `normed` was made of."""
    named = {name: value for name, value in weights.items() if not name.endswith("weight_g")}
    for name in [name for name in named if name.endswith("weight_v")]:
        v, g = named.pop(name), weights[name[:-1] + "g"]
        named[name.removesuffix("_v")] = v * (g / v.flatten(1).norm(dim=1)[:, None, None])
    return named


def save(network: Network, config: dict, pieces: Path, folder: Path, weights: dict) -> None:
    """Write a checkpoint as the reference's: checkpoint.pt, config.json, and T5 beside them."""
    text = folder / config["text_encoder"]["name"]
    text.mkdir(parents=True, exist_ok=True)
    prefix = "text_encoder."
    weights = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    rest = {name: value for name, value in weights.items() if not name.startswith(prefix)}
    torch.save(normed(rest), folder / "checkpoint.pt")
    described = {**config, "audio_codec": {**config["audio_codec"], "watermark": False}}
    described |= dict(vision_encoder=None, visual_ranker=None, text_ranker=None)
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n")
    t5 = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    t5.pop("encoder.embed_tokens.weight", None)  # a copy of `shared`
    save_file(t5, text / "model.safetensors", metadata={"format": "pt"})
    network.text_encoder.config.save_pretrained(text)
    (text / "spiece.model").write_bytes(pieces.read_bytes())


def load(network: Network, tokenizer: SentencePieceProcessor, folder: Path) -> None:
    """Take the weights of a checkpoint that `save` wrote, which may be of fewer blocks and words.

    A new word's embedding stays random. New blocks add nothing at first: their last layers are 0.
    """
    weights = folded(torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True))
    t5 = load_file(folder / "t5" / "model.safetensors")
    old = SentencePieceProcessor(model_file=str(folder / "t5" / "spiece.model"))
    ids = {old.id_to_piece(i): i for i in range(old.vocab_size())}
    table = network.text_encoder.shared.weight.detach().clone()
    for i in range(tokenizer.vocab_size()):
        if (known := ids.get(tokenizer.id_to_piece(i))) is not None:
            table[i] = t5["shared.weight"][known]
    weights |= {f"text_encoder.{name}": value for name, value in t5.items()}
    weights["text_encoder.shared.weight"] = table
    weights["text_encoder.encoder.embed_tokens.weight"] = table
    missing, unexpected = network.load_state_dict(weights, strict=False)
    blocks = "transformer.layers."
    known = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith(blocks))
    later = [name for name in missing if not name.startswith(blocks)]
    if unexpected or later:
        raise ValueError(f"{folder} does not fit: {unexpected + later}")
    with torch.no_grad():
        for layer in network.transformer.layers[known:]:
            for module in (layer.attention.wo, layer.cross_attention.wo, layer.feed_forward.w2):
                module.weight.zero_()


def words(pieces: Path) -> SentencePieceProcessor:
    """The tokenizer of all descriptions, made if it is not there yet."""
    if not pieces.exists():
        settings = dict(vocab_size=240, hard_vocab_limit=False, character_coverage=1.0)
        settings |= dict(pad_id=PAD, eos_id=END, unk_id=2, bos_id=-1, minloglevel=2)
        lines = [phrase for family in sounds.FAMILIES.values() for phrase in family.phrases]
        model = io.BytesIO()
        SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, **settings)
        pieces.write_bytes(model.getvalue())
    return SentencePieceProcessor(model_file=str(pieces))
