"""Is a converted model what was converted, and does it hold what training made?"""

from collections.abc import Callable, Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_sam_audio.errors import SAMAudioError
from mlx_sam_audio.loading import load, manifest
from mlx_sam_audio.loading.store import stamps
from mlx_sam_audio.loading.strict_json import read_json
from mlx_sam_audio.loading.weights import complain
from mlx_sam_audio.models.sam_audio import ModelConfig, Network

from .groups import WATERMARK, has
from .layouts import PREFIX, Renamed, opened, untouched
from .rules import join, plan
from .sam_audio import source_name
from .sources import Source

# relative L2 distance of a codec's tensor from the same in another precision, weight norm folded
NEAR = {"float32": 1e-6, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def verify(folder: Path, codec_from: str | None, tell: Callable[[str], object]) -> Path:
    """Compare a folder's files with its own record; of a SAM-Audio, look for tensors that were
    never loaded, and compare its codec with a second source's. Raises SAMAudioError."""
    entries = manifest.read(folder)
    manifest.check(folder, True, stamps())
    tell(f"{folder}: {len(entries)} files are what the conversion wrote")
    if read_json(folder / "config.json").get("model_type") != ModelConfig.model_type:
        if codec_from:
            raise SAMAudioError(f"{folder} holds no SAM-Audio: leave out --codec-from")
        return folder
    config = load.read(ModelConfig, folder)
    names = sorted(name for name, value in tensors(folder) if untouched(name, value))
    complain(f"{folder} holds as they were before any training", names)
    tell("every layer holds what training made")
    if codec_from:
        count = compare(folder, config, Source.find(codec_from))
        tell(f"{count} tensors of the codec are those of {codec_from}")
    return folder


def tensors(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Of the separation model's files, but for the text encoder, in float32."""
    for path in sorted(folder.glob("model*.safetensors")):
        for name, value in mx.load(str(path)).items():
            if value.dtype != mx.uint32 and not name.startswith("text_encoder."):
                yield name, np.array(value.astype(mx.float32))


def compare(folder: Path, config: ModelConfig, source: Source) -> int:
    """The codec with a source's, tensor by tensor; returns how many."""
    weights = opened(source, len(config.codec.encoder_rates)).weights
    stages, codec = len(config.codec.decoder_rates), Network(config).audio_codec
    if config.codec.watermark and not has(weights, WATERMARK):
        codec.watermark = None
    codec_only = Renamed(weights, lambda name: name if name.startswith(PREFIX) else None)
    left_out = {} if codec.watermark else {r".*": "a watermark that the model lacks"}
    rules = plan(
        codec,
        lambda name: source_name(join("audio_codec", name), stages),
        codec_only.shapes,
        left_out,
    )
    ours = {name: value for name, value in tensors(folder) if name.startswith(PREFIX)}
    most = NEAR[config.dtype] + NEAR[weights.dtype]
    for rule in rules:
        values = rule.make(*map(codec_only.read, rule.sources))
        for name, value in zip(rule.parameters, values, strict=True):
            kept = ours[PREFIX + name]
            size = np.linalg.norm(value)
            if kept.shape != value.shape or np.linalg.norm(kept - value) > most * size:
                raise SAMAudioError(f"{folder} holds another {PREFIX}{name} than {source}")
    return sum(len(rule.parameters) for rule in rules)
