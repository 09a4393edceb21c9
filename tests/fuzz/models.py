"""Mutated checkpoints through the converter, mutated model folders through the loader."""

import hashlib
import io
import json
import os
import shutil
import zipfile
from functools import cache
from pathlib import Path
from random import Random

import mlx.core as mx
import numpy as np

from convert.command import convert
from mlx_sam_audio import SAMAudio, load
from mlx_sam_audio.clap import CLAP
from mlx_sam_audio.imagebind import ImageBind
from mlx_sam_audio.judge import Judge
from mlx_sam_audio.span_predictor import SpanPredictor

from . import mutate
from .pool import Different

GOLDEN = Path(__file__).parents[1] / "golden"
KINDS = ("tiny", "judge", "clap", "pe_a_frame", "imagebind")
CLASSES = dict(judge=Judge, clap=CLAP, pe_a_frame=SpanPredictor, imagebind=ImageBind)
noise = np.random.default_rng(0)
WAVE = noise.normal(0, 0.1, 12_000).astype(np.float32)
LATENTS = noise.normal(size=(1, 40, 128)).astype(np.float32)


def prepare(folder: Path) -> None:
    """Sources and converted models to change copies of."""
    ignore = shutil.ignore_patterns("golden.*")
    for kind in KINDS:
        shutil.copytree(GOLDEN / kind, folder / "source" / kind, ignore=ignore)
        convert(str(folder / "source" / kind), folder / "model" / kind)
    shutil.copytree(load.DEMO, folder / "model" / "demo")


def base() -> Path:
    return Path(os.environ["FUZZ_FOLDER"])


def use(kind: str, folder: Path) -> str:
    """Load a model and let it compute something: a fingerprint of that."""
    model = CLASSES.get(kind, SAMAudio).from_pretrained(folder)
    if kind == "judge":
        scores = model(WAVE, WAVE[None] / 2, "dog")[0]
        return digest(scores.overall, scores.recall, scores.precision, scores.faithfulness)
    if kind == "clap":
        return digest(model(WAVE[None], "dog"))
    if kind == "pe_a_frame":
        return digest(model(LATENTS[..., : model.config.channels], "dog")[0].probabilities)
    if kind == "imagebind":
        frames = np.arange(4 * 3 * 40 * 40).reshape(4, 3, 40, 40).astype(np.uint8)
        return digest(model(WAVE[None], 48_000, frames))
    result = model.separate(WAVE, "beep", method="euler", steps=1)
    eyes = [model.vision.proj.weight] if model.config.vision else []
    return digest(result.target, result.residual, *eyes)


def digest(*arrays) -> str:
    sha = hashlib.sha256()
    for array in arrays:
        values = np.array(array, np.float32)
        if not np.isfinite(values).all():
            raise Different("the result is not finite")
        sha.update(values.tobytes())
    return sha.hexdigest()


def weights(folder: Path) -> str:
    """A fingerprint of all tensors of a converted model."""
    files = sorted(folder.glob("*.safetensors"))
    tensors = [(name, t) for file in files for name, t in sorted(mx.load(str(file)).items())]
    return digest(*(t.astype(mx.float32) for _, t in tensors)) + digest(
        np.frombuffer("".join(name for name, _ in tensors).encode(), np.uint8)
    )


def converted(kind: str, source: Path) -> tuple[str, str]:
    out = convert(str(source), Path.cwd() / "out")
    return weights(out), use(kind, out)


@cache
def right(work, kind: str, folder: Path):
    """What comes of it where nothing was changed."""
    result = work(kind, folder)
    shutil.rmtree("out", ignore_errors=True)
    return result


def draw(where: str, rng: Random, only: str = "") -> str:
    folders = sorted(path for path in (base() / where).iterdir())
    folder = rng.choice(folders)
    files = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    files = [f for f in files if f.name != "source.json" and f.suffix.endswith(only)]
    small = [f for f in files if f.name == "config.json"] or files
    file = rng.choice([rng.choice(files), rng.choice(files), rng.choice(small)])
    return f"{folder.name} {file} {mutate.choose(file.name, rng)} {rng.randrange(10**6)}"


def draw_source(rng: Random) -> str:
    return draw("source", rng)


def draw_model(rng: Random) -> str:
    return draw("model", rng)


def draw_weights(rng: Random) -> str:
    return draw("model", rng, ".safetensors")


def changed(where: str, recipe: str) -> tuple[str, Path, Path, Path]:
    """Kind, the folder as it should be, a file of a changed copy, and that copy."""
    kind, file, mutation, seed = recipe.split()
    original, copy = base() / where / kind, Path.cwd() / "copy"
    shutil.copytree(original, copy, copy_function=os.link)
    mutate.apply(copy / file, mutation, seed)
    return kind, original, copy / file, copy


def check_convert(recipe: str) -> str | None:
    if recipe == "warm":
        import torch  # noqa: F401

        return None
    kind, original, file, copy = changed("source", recipe)
    expected = right(converted, kind, original)
    try:
        if converted(kind, copy) == expected:
            return None
    finally:
        if Path(mutate.EXECUTED).exists():
            raise AssertionError("a pickle ran its code")
    if file.is_file() and intact(original / file.relative_to(copy), file):
        return "plausible"
    raise Different("another model than that of the file as it was")


def check_load(recipe: str) -> str | None:
    if recipe == "warm":
        return None
    kind, original, file, copy = changed("model", recipe)
    if use(kind, copy) != right(use, kind, original):
        raise Different("another result than that of the file as it was")
    return None


def check_unhashed(recipe: str) -> str | None:
    if recipe == "warm":
        return None
    kind, original, file, copy = changed("model", recipe)
    if use(kind, copy) == right(use, kind, original):
        return None
    if intact(original / file.relative_to(copy), file):
        return "plausible"
    raise Different("another result than that of the file as it was")


def intact(old: Path, new: Path) -> bool:
    """Is it a file of the same kind with other values in it, as nothing but a checksum can tell?"""
    try:
        if new.suffix == ".json":
            return same_types(json.loads(old.read_bytes()), json.loads(new.read_bytes()))
        if new.suffix == ".safetensors":
            (header, _), (changed, body) = map(mutate.parts, (old.read_bytes(), new.read_bytes()))
            return header == changed and bool(np.isfinite(np.frombuffer(body, "<f4")).all())
        if new.suffix in (".pt", ".pth"):
            import torch

            if zipfile.ZipFile(new).testzip():
                return False
            values = torch.load(io.BytesIO(new.read_bytes()), weights_only=True)
            values = values.get("state_dict", values)
            return all(value.is_floating_point() for value in values.values())
    except (ValueError, zipfile.BadZipFile):
        return False
    return True  # the words of a tokenizer


def same_types(old, new) -> bool:
    """Do two JSON values differ in numbers and words alone?"""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(same_types(old[key], new[key]) for key in set(old) & set(new))
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return all(map(same_types, old, new))
    return type(old) is type(new)
