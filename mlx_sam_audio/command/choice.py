"""Which model, if none is named?"""

import fnmatch
import math
from pathlib import Path

import mlx.core as mx

from ..engine import memory
from ..errors import SAMAudioError, note
from ..loading import manifest
from ..loading.store import models, store
from ..loading.strict_json import read_json
from ..models.sam_audio import ModelConfig


def largest_that_fits(limit: int | None, window: float) -> tuple[str, str]:
    """The largest separation model of the local store for this machine, and why, in a sentence.

    window: seconds; limit: bytes, if not all that the machine offers. Notes which models cannot be
    used.
    """
    found = {}  # name -> size on disk, configuration
    for folder in models():
        if not (folder / "config.json").is_file():
            continue
        try:
            values = read_json(folder / "config.json")
            if values.get("model_type") == ModelConfig.model_type:
                config = ModelConfig.from_dict(values, folder / "config.json")
                found[folder.name] = weight_bytes(folder), config
        except SAMAudioError as error:
            note(f"the model {folder.name} is left out: {error}")
    if not found:
        raise SAMAudioError(
            f"no converted model in {store()}: run `python -m convert --hf-path small` once, or "
            "name a model with -m: a folder, or demo, the small bundled one"
        )
    offered = memory.text(memory.offered(limit))
    for name, (size, config) in sorted(found.items(), key=lambda item: -item[1][0]):
        if fits(config, size, window, limit):
            size = memory.text(size)
            why = f"{size}, the largest in {store()} that fits {offered} of memory"
            return name, f"model {name}: {why}"
    raise SAMAudioError(f"none of the models in {store()} fits {offered} of memory")


def weight_bytes(folder: Path) -> int:
    """Of a model's weights on disk, but for those that only a video needs."""
    entries = manifest.read(folder)
    return sum(entries[name].bytes for name in fnmatch.filter(entries, "model*.safetensors"))


def fits(config: ModelConfig, size: int, window: float, limit: int | None = None) -> bool:
    """Is there memory for weights that take so many bytes on disk, and for a window of so many
    seconds?"""
    weights = size * memory.itemsize(config) // getattr(mx, config.dtype).size
    frames = math.ceil(window * config.codec.sample_rate / config.codec.hop_length)
    try:
        memory.pieces(config, weights, memory.Work(frames, frames), limit)
    except SAMAudioError:
        return False
    return True
