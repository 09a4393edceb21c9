"""Models of the published sizes with random weights: for time and memory, not for sound.

python -m benchmarks.models small float16 FOLDER    saves one
"""

import sys
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_sam_audio import SAMAudio
from mlx_sam_audio.loading import manifest, store
from mlx_sam_audio.loading.tokenizers import SentencePieceTokenizer
from mlx_sam_audio.models.dacvae import CodecConfig
from mlx_sam_audio.models.dit import TransformerConfig
from mlx_sam_audio.models.quantise import QuantisationConfig, layers, quantise
from mlx_sam_audio.models.sam_audio import ModelConfig, Network
from mlx_sam_audio.models.t5 import TextConfig
from mlx_sam_audio.models.vision import VisionConfig

SIZES = {  # width, heads, layers, hidden width of the feed-forward layers
    "small": (1536, 12, 12, 4096),
    "base": (2048, 16, 16, 5504),
    "large": (2816, 22, 22, 7552),
}
ROUNDED = ("float32", "bfloat16", "float16", "8", "6", "4")  # types, or bits
CODEC = CodecConfig(
    sample_rate=48_000,
    encoder_dim=64,
    encoder_rates=(2, 8, 10, 12),
    latent_dim=1024,
    codebook_dim=128,
    decoder_dim=1536,
    decoder_rates=(12, 10, 8, 2),
    watermark=True,
    watermark_rates=(8, 5, 4, 2),
)
TEXT = TextConfig(32_128, 768, 64, 3072, 12, 12, 32, 128, 1e-6, 512)
VISION = VisionConfig(1024, 336, 14, 1024, 24, 16, 8, 4096)


def config(size: str, dtype: str) -> ModelConfig:
    dim, heads, layers, hidden = SIZES[size]
    transformer = TransformerConfig(dim, heads, layers, hidden, dim, 256, 1e-5, 10_000, 256)
    return ModelConfig(CODEC, TEXT, transformer, VISION, False, None, 3, 128, dtype, None, ())


def build(size: str, dtype: str, bits: int | None = None) -> SAMAudio:
    """Nothing is computed before it is used, random weights included."""
    made = config(size, dtype)
    if bits:
        made = replace(made, quantisation=QuantisationConfig(bits, 64))
    network = Network(made)
    network.set_dtype(getattr(mx, dtype))
    if bits:
        quantise(network, made.quantisation)
    network.eval()
    return SAMAudio(made, network, SentencePieceTokenizer(store.DEMO / "spiece.model", TEXT))


def rounded(model: SAMAudio, to: str) -> SAMAudio:
    """The model with weights rounded `to` a type or a number of bits, computing in float32: MLX's
    CPU backend has only scalar products of others, and the rounding is what is measured."""
    network = model.network
    network.set_dtype(mx.float32)
    if to.isdigit():
        form = dict(group_size=64, bits=int(to))
        chosen = set(layers(network, 64))
        for name, module in network.named_modules():
            if name in chosen:
                module.weight = mx.dequantize(*mx.quantize(module.weight, **form), **form)
    else:
        network.set_dtype(getattr(mx, to))
        network.set_dtype(mx.float32)
    return SAMAudio(model.config, network, model.tokenizer)


def weights(model: SAMAudio) -> int:
    """Bytes."""
    return sum(value.nbytes for _, value in tree_flatten(model.network.parameters()))


def save(model: SAMAudio, folder: Path) -> None:
    import json
    import shutil

    mx.save_safetensors(
        str(folder / "model.safetensors"), dict(tree_flatten(model.network.parameters()))
    )
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()))
    shutil.copyfile(store.DEMO / "spiece.model", folder / "spiece.model")
    manifest.write(folder)


if __name__ == "__main__":
    size, dtype, folder = sys.argv[1:]
    save(build(size, dtype), Path(folder))
