"""Mutated checkpoints through the converter, mutated model folders through the loader."""

import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from random import Random

import mlx.core as mx
import numpy as np

from convert.command import convert
from mlx_sam_audio import MaskedVideo, SAMAudio
from mlx_sam_audio.loading import manifest, store
from mlx_sam_audio.ranking.clap import CLAP
from mlx_sam_audio.ranking.imagebind import ImageBind
from mlx_sam_audio.ranking.judge import Judge
from mlx_sam_audio.span_predictor import SpanPredictor

from . import mutate
from .pool import Different

GOLDEN = Path(__file__).parents[1] / "golden"
CLASSES = dict(tiny=SAMAudio, judge=Judge, clap=CLAP, pe_a_frame=SpanPredictor, imagebind=ImageBind)
noise = np.random.default_rng(0)
WAVE = noise.normal(0, 0.1, 12_000).astype(np.float32)
LATENTS = noise.normal(size=(1, 40, 128)).astype(np.float32)
FRAMES = np.arange(4 * 3 * 40 * 40).reshape(4, 3, 40, 40).astype(np.uint8)


def prepare() -> None:
    """Checkpoints and models to change copies of, in folders "source" and "model"."""
    for kind in CLASSES:
        source = base("source", kind)
        shutil.copytree(GOLDEN / kind, source, ignore=shutil.ignore_patterns("golden.*"))
        convert(str(source), base("model", kind))
    shutil.copytree(store.DEMO, base("model", "demo"))


def base(*names: str) -> Path:
    """A folder of the run: its temporary one."""
    return Path(tempfile.gettempdir(), *names)


@cache
def model(kind: str):
    return CLASSES.get(kind, SAMAudio).from_pretrained(base("model", kind))


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
        return digest(model(WAVE[None], 48_000, FRAMES))
    video = MaskedVideo(FRAMES) if model.config.vision else None
    result = model.separate(WAVE, "beep", video=video, method="euler", steps=1)
    return digest(result.target, result.residual)


def digest(*arrays) -> str:
    sha = hashlib.sha256()
    for array in arrays:
        values = np.array(array, np.float32)
        if not np.isfinite(values).all():
            raise Different("the result is not finite")
        sha.update(values)
    return sha.hexdigest()


def converted(kind: str, source: Path) -> tuple:
    """Fingerprints of the tensors of a converted checkpoint, and of what the model computes."""
    out = Path("out").absolute()
    shutil.rmtree(out, ignore_errors=True)
    convert(str(source), out)
    tensors = {}
    for file in out.glob("*.safetensors"):
        tensors |= {name: digest(t.astype(mx.float32)) for name, t in mx.load(str(file)).items()}
    return tensors, use(kind, out)


@cache
def unchanged(work, kind: str, folder: Path):
    return work(kind, folder)


def draw(where: str, only: str, rng: Random) -> str:
    """where: of which folders; only: the suffix of files."""
    folder = rng.choice(sorted(base(where).iterdir()))
    files = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    files = [file for file in files if file.name != "source.json" and file.suffix.endswith(only)]
    configs = [file for file in files if file.name == "config.json"] or files
    file = rng.choice([rng.choice(files), rng.choice(files), rng.choice(configs)])
    return f"{folder.name} {file} {mutate.choose(file.name, rng)} {rng.randrange(10**6)}"


def changed(where: str, work, recipe: str) -> tuple[bool, Path, Path]:
    """Does the work on a changed copy give what it gives on the original? And the file, of both."""
    kind, file, mutation, seed = recipe.split()
    original, copy = base(where, kind), Path("copy").absolute()
    expected = unchanged(work, kind, original)
    shutil.copytree(original, copy, copy_function=os.link)
    mutate.apply(copy / file, mutation, seed)
    return work(kind, copy) == expected, original / file, copy / file


def check_convert(recipe: str) -> str | None:
    try:
        same, old, new = changed("source", converted, recipe)
    finally:
        if Path(mutate.EXECUTED).exists():
            raise AssertionError("a pickle ran its code")
    return None if same else other(old, new)


def check_load(recipe: str) -> None:
    if not changed("model", use, recipe)[0]:
        raise Different("another result than that of the file as it was")


def check_unhashed(recipe: str) -> str | None:
    """As for large weights, which are not read again once they were verified."""
    compare = manifest.compare
    manifest.compare = lambda path, entry, whole: compare(
        path, entry, whole and path.suffix != manifest.WEIGHTS
    )
    try:
        same, old, new = changed("model", use, recipe)
    finally:
        manifest.compare = compare
    return None if same else other(old, new)


def other(old: Path, new: Path) -> str:
    """ "plausible" if it is a whole file with other values in it, as only a checksum can tell."""
    if new.suffix == ".json":
        fine = same_types(json.loads(old.read_bytes()), json.loads(new.read_bytes()))
    elif new.suffix == ".safetensors":
        headers = [mutate.parts(path.read_bytes())[0] for path in (old, new)]
        fine = headers[0] == headers[1]
        fine = fine and all(mx.isfinite(t).all().item() for t in mx.load(str(new)).values())
    elif new.suffix in (".pt", ".pth"):
        trees = [mutate.torch_load(path.read_bytes())[1] for path in (old, new)]
        kinds = [{k: (t.shape, t.is_floating_point()) for k, t in tree.items()} for tree in trees]
        fine = zipfile.ZipFile(new).testzip() is None and kinds[0] == kinds[1]
    else:
        fine = True  # the words of a tokenizer
    if not fine:
        raise Different("another result than that of the file as it was")
    return "plausible"


def same_types(old, new) -> bool:
    """Do two JSON values differ in numbers and words alone?"""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(same_types(old[key], new[key]) for key in set(old) & set(new))
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(same_types, old, new))
    return type(old) is type(new)
