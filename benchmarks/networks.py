"""The networks beside the separation model, at their published sizes with random weights.

python -m benchmarks.networks
"""

import argparse
import json
import subprocess
import sys
import time

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from benchmarks import report
from benchmarks.models import CODEC, VISION
from mlx_sam_audio.models.aesthetics import (
    CLIP,
    AestheticsConfig,
    AestheticsNetwork,
    Target,
    Targets,
    WavLMConfig,
)
from mlx_sam_audio.models.clap import ClapConfig, ClapNetwork
from mlx_sam_audio.models.dacvae import EncoderConfig
from mlx_sam_audio.models.htsat import HTSATConfig
from mlx_sam_audio.models.imagebind import ImageBindConfig, ImageBindNetwork, TowerConfig
from mlx_sam_audio.models.judge import JudgeConfig, JudgeNetwork
from mlx_sam_audio.models.modernbert import ModernBertConfig
from mlx_sam_audio.models.pe_a_frame import PEAudioFrame, SpanPredictorConfig
from mlx_sam_audio.models.pe_transformer import PETransformerConfig
from mlx_sam_audio.models.roberta import RobertaConfig
from mlx_sam_audio.models.vision import VisionEncoder

MODERNBERT = ModernBertConfig(
    50_368, 1024, 16, 22, 2624, 1e-5, 3, 64, 160_000.0, 10_000.0, 50_283, 512
)
PE_LARGE = PETransformerConfig(1792, 14, 28, 4800, 1e-5, 10_000)
ENCODER = EncoderConfig(
    CODEC.sample_rate, CODEC.encoder_dim, CODEC.encoder_rates, CODEC.latent_dim, CODEC.codebook_dim
)
WAVLM = WavLMConfig(
    512, (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2), 768, 12, 12, 3072, 128, 16, 320, 800
)
FRAMES = 250  # 10 s
TOKENS, MASK = mx.ones((1, 8), mx.int32), mx.ones((1, 8), mx.bool_)


class Vision:
    work = "4 video frames"

    def __init__(self):
        self.network = VisionEncoder(VISION)

    def __call__(self) -> mx.array:
        return self.network(mx.zeros((4, 3, VISION.image_size, VISION.image_size), mx.uint8))


class Spans:
    work = "10 s of latents"

    def __init__(self):
        self.network = PEAudioFrame(
            SpanPredictorConfig(48_000, 1920, 128, PE_LARGE, MODERNBERT, 1024, "float32")
        )

    def __call__(self) -> mx.array:
        text = self.network.embed_text(TOKENS, MASK)
        return self.network(mx.zeros((1, FRAMES, 128)), text)


class Judge:
    work = "latents of 10 s, mixture and one candidate"

    def __init__(self):
        last = PETransformerConfig(192, 3, 6, 512, 1e-5, 10_000)
        self.network = JudgeNetwork(
            JudgeConfig(ENCODER, MODERNBERT, PE_LARGE, last, 256, "float32")
        )

    def __call__(self) -> mx.array:
        both = self.network.embed_audio(mx.zeros((2, FRAMES, 128)))
        text = self.network.embed_text(TOKENS, MASK)
        return self.network(both[:1], both[1:], text)


class Clap:
    work = "10 s of audio and its description"

    def __init__(self):
        htsat = HTSATConfig(
            48_000, 480_000, 1024, 480, 64, 256, 4, 96, (2, 2, 6, 2), (4, 8, 16, 32), 8, 1e-5
        )
        roberta = RobertaConfig(50_265, 768, 12, 12, 3072, 1e-5, 514, 1, 77)
        self.network = ClapNetwork(ClapConfig(htsat, roberta, 512, "float32"))

    def __call__(self) -> mx.array:
        clip = mx.zeros((1, 480_000)) + 0.1
        return self.network.embed_audio(clip) @ self.network.embed_text(TOKENS, MASK).T


class Picture:
    work = "3 clips of audio and 15 views of a video"

    def __init__(self):
        towers = TowerConfig(768, 12, 12, 3072, 1024), TowerConfig(1280, 16, 32, 5120, 1024)
        self.network = ImageBindNetwork(ImageBindConfig(*towers, "float32"))

    def __call__(self) -> mx.array:
        sound = self.network.audio(mx.zeros((3, 128, 204)))
        return sound @ self.network.vision(mx.zeros((15, 3, 2, 224, 224))).T


class Aesthetics:
    work = "10 s of audio"

    def __init__(self):
        targets = Targets(*[Target(5, 2)] * 4)
        self.network = AestheticsNetwork(AestheticsConfig(WAVLM, 5, targets, "float32"))

    def __call__(self) -> mx.array:
        return self.network(mx.zeros((1, CLIP)) + 0.1, mx.ones((1, CLIP), mx.bool_))


NETWORKS = {
    "PE-Core-L14-336": Vision,
    "PE-A-Frame large": Spans,
    "SAM-Audio judge": Judge,
    "CLAP": Clap,
    "ImageBind": Picture,
    "audiobox-aesthetics": Aesthetics,
}


def size(network: nn.Module, bits: int) -> int:
    """Bytes with weights of 16 bits, or the blocks' in fewer, in groups of 64."""
    network.set_dtype(mx.float16)
    if bits < 16:
        nn.quantize(
            network, 64, bits,
            class_predicate=lambda _, module: isinstance(module, (nn.Linear, nn.Embedding))
            and module.weight.shape[-1] % 64 == 0,
        )  # fmt: skip
    return sum(value.nbytes for _, value in tree_flatten(network.parameters()))


def measure(name: str, repeats: int) -> dict:
    subject = NETWORKS[name]()
    subject.network.eval()
    parameters = sum(value.size for _, value in tree_flatten(subject.network.parameters()))
    mx.eval(subject.network.parameters(), subject())
    mx.clear_cache()
    mx.reset_peak_memory()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        mx.eval(subject())
        seconds.append(time.perf_counter() - start)
    peak = mx.get_peak_memory() / 2**20
    sizes = {f"gib_{bits}": size(NETWORKS[name]().network, bits) / 2**30 for bits in (16, 8, 4)}
    return {
        "work": subject.work, "parameters": parameters, **sizes,
        "seconds": float(np.median(seconds)), "peak_mib": peak,
    }  # fmt: skip


def main(arguments: list[str]) -> None:
    parser = report.parser(__doc__, repeats=3)
    parser.add_argument("--only", choices=NETWORKS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.only:
        print(json.dumps(measure(options.only, options.repeats)))
        return
    sizes = ("16 bits", "8 bits", "4 bits")
    report.head("network", "parameters", *sizes, "work", "float32, s", "peak, MiB")
    rows = {}
    for name in NETWORKS:  # each in a process of its own, for its memory
        line = [sys.executable, "-m", "benchmarks.networks", "--only", name]
        line += ["--repeats", str(options.repeats)]
        row = json.loads(subprocess.run(line, check=True, stdout=subprocess.PIPE).stdout)
        gib = [f"{row[f'gib_{bits}']:.2f} GiB" for bits in (16, 8, 4)]
        cells = [name, f"{row['parameters'] / 1e6:.0f} M", *gib, row["work"]]
        cells += [f"{row['seconds']:.2f}", f"{row['peak_mib']:.0f}"]
        report.line(*cells)
        rows[name] = row
    report.write(options, rows)


if __name__ == "__main__":
    report.run(main)
