"""What `mlx-sam-audio --doctor` tells: all that a report of a problem should hold.

Every part imports what is heavy itself, and one that fails is a line that says why: whatever is
broken on a machine, the rest is told.
"""

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import __version__, files
from ..errors import SAMAudioError, plain
from ..loading import manifest
from ..loading.store import DEMO, HUB, aside, models, nearest, shelved, store, title
from ..loading.strict_json import read_json
from ..models.config import KINDS
from .terminal import Parser, agreed

PACKAGE = "mlx-sam-audio"
NEEDED = "mlx numpy soundfile av soxr huggingface_hub safetensors sentencepiece tqdm".split()
USEFUL = "mlx-metal mlx-cpu mlx-cuda-13 mlx-cuda-12 mlx-lm tokenizers torch".split()
VARIABLES = (
    "SAM_AUDIO_HOME SAM_AUDIO_METRICS HF_HOME HF_HUB_CACHE HF_ENDPOINT HF_HUB_OFFLINE HF_TOKEN "
    "HUGGING_FACE_HUB_TOKEN HTTPS_PROXY TMPDIR MLX_ENABLE_TF32 MLX_DISABLE_COMPILE"
).split()
SECRET = r"^(\w+://)?[^/].*@"  # who one is at an address
COLUMNS, MARGIN, NAME = 100, 11, 12
SECONDS, STEPS, SEED = 1.0, 2, 6  # of the self-test
RECORD = (  # `numbers` of target and residual, where all is well
    (0.560592, 0.905099, 1.081255, -0.354600, -0.151110, 1.785773, -0.651815, -0.759179),
    (0.128124, 2.066945, -7.442106, 0.135088, 1.795036, -2.449755, 0.190106, 2.195095),
)
# by the bits of products: what MLX's functions and our own make differs by 3e-6, TF32 by 2e-3
TOLERANCES = {24: 1e-3, 11: 1e-2}
Told = tuple[Any, ...]  # what JSON gets, and the same in lines


def parser() -> Parser:
    parser = Parser(
        prog="python -m mlx_sam_audio.doctor",
        description="Tell what is installed, which models are there, and whether all of it works.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.add_argument("--remove", metavar="MODEL", help="remove a model from the store instead")
    parser.add_argument("--yes", action="store_true", help="remove it without a question")
    return parser


def main(arguments: list[str]) -> int | None:
    options = parser().parse_args(arguments)
    if options.remove is None:
        if options.yes:
            raise SAMAudioError("--yes answers what --remove asks: give --remove MODEL, too")
        return report(options.json)
    if options.json:
        raise SAMAudioError("--remove prints no report: leave out --json")
    return remove(options.remove, options.yes)


def report(as_json: bool) -> int:
    """Print all parts. The exit status: 1 if the self-test failed."""
    values = {}
    for heading, part in PARTS.items():
        values[heading], *lines = attempt(part)
        for line in [] if as_json else lines:
            wrapped = textwrap.wrap(
                plain(line), COLUMNS - MARGIN, subsequent_indent="  ", break_on_hyphens=False
            )
            for text in wrapped:
                print(f"{heading:{MARGIN}}{text}", flush=True)
                heading = ""
    if as_json:
        print(json.dumps(values, indent=2, default=str))
    return int(not values["self-test"].get("passed"))


def attempt(part: Callable[..., Told], *given: object) -> Told:
    """What it tells, or why it cannot."""
    try:
        return part(*given)
    except Exception as error:  # noqa: BLE001 - whatever is broken, the rest is told
        kind = "" if isinstance(error, SAMAudioError) else f"{type(error).__name__}: "
        why = kind + (files.reason(error).splitlines() or [""])[0][:300]
        return {"error": why}, why


def size(count: int) -> str:
    from ..engine import memory

    return memory.text(count)


def version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> Told:
    found: dict[str, str | None] = {PACKAGE: __version__, "Python": platform.python_version()}
    for name in NEEDED:
        there = importlib.util.find_spec(name) and "of unknown version"  # as in a frozen app
        found[name] = version(name) or there
    found |= {name: value for name in USEFUL if (value := version(name))}
    return found, ", ".join(f"{name} {value or 'is missing'}" for name, value in found.items())


def system() -> Told:
    name, kernel = platform.system(), f"{platform.system()} {platform.release()}"
    try:
        mac = platform.mac_ver()[0]
        name = f"macOS {mac}" if mac else platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):  # it does not say
        pass
    values = {"name": name, "kernel": kernel, "machine": platform.machine()}
    return {**values, "python": sys.executable}, ", ".join([*values.values(), sys.executable])


def chip() -> Told:
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        name = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    else:
        found = re.search(r"^model name\s*: (.+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        name = found[1] if found else platform.machine()
    return {"name": name, "cores": os.cpu_count()}, f"{name}, {os.cpu_count()} cores"


def main_memory() -> Told:
    from ..engine import memory

    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    values = {"bytes": total, "usable_bytes": memory.machine()}
    return values, f"{size(total)}, of which a run may take {size(values['usable_bytes'])}"


def backend() -> Told:
    import mlx.core as mx

    from ..models.cpu import on_cpu

    name = "CPU" if on_cpu() else "Metal" if mx.metal.is_available() else "CUDA"
    values = {"name": name, "device": mx.device_info(), "product_bits": product_bits()}
    device = values["device"].get("device_name", mx.default_device())
    return values, f"{name} ({device}), which multiplies float32 in {values['product_bits']} bits"


def product_bits() -> int:
    """Of float32 numbers in products of matrices: some chips round them to TF32."""
    import mlx.core as mx

    x = mx.full((256, 256), 1 + 2**-12)
    return 24 if float((x @ x)[0, 0]) > 256.06 else 11


def kernels() -> Told:
    import mlx.core as mx

    from ..loading.kernels import guard_kernels
    from ..models.cpu import on_cpu

    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        guard_kernels()
    mx.eval(mx.compile(lambda x: mx.exp(-x) * 2)(mx.ones(2)))
    compiler = shutil.which("g++") if on_cpu() else "MLX"
    words = f"compiled by {compiler}" if compiler else "no g++: only those made before can be used"
    words = str(notes[0].message) if notes else words
    return {"compiled": not notes, "compiler": compiler}, words


def extras() -> Told:
    declared = importlib.metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    lacks: dict[str, list[str]] = {name: [] for name in declared}
    for line in importlib.metadata.requires(PACKAGE) or []:
        found = re.match(r"""([\w.-]+).*extra == ["'](.+?)["']""", line)
        if found and not version(found[1]):
            lacks[found[2]].append(found[1])
    words = [f"{k} lacks {', '.join(v)}" if v else f"{k} is installed" for k, v in lacks.items()]
    return lacks, "; ".join(words)


def all_models() -> Told:
    """The bundled one, and those of the store, where presets of the user may lie, too."""
    found, *failed = attempt(lambda: (models(),))
    rows, lines = [], failed
    for folder in [DEMO, *([] if failed else found)]:
        if folder.name != "presets" or (folder / "config.json").exists():
            name = title(folder)
            values, words = attempt(one_model, folder)
            rows.append({"name": name, **values})
            lines.append(f"{name:{NAME}} {words}")
    return rows, *lines


def one_model(folder: Path) -> Told:
    from ..models import aesthetics, clap, imagebind, judge, pe_a_frame, sam_audio
    from ..settings import LONG
    from . import choice

    kinds = [sam_audio.ModelConfig, pe_a_frame.SpanPredictorConfig, judge.JudgeConfig]
    kinds += [clap.ClapConfig, imagebind.ImageBindConfig, aesthetics.AestheticsConfig]
    stored, entries = read_json(folder / "config.json"), manifest.read(folder)
    named = str(stored.get("model_type"))
    kind = {kind.model_type: kind for kind in kinds}.get(named, kinds[0])
    config = kind.from_dict(stored, folder / "config.json")
    for name, entry in entries.items():
        manifest.compare(folder / name, entry, whole=entry.bytes <= manifest.SMALL)
    count, (source, made) = sum(entry.bytes for entry in entries.values()), attempt(origin, folder)
    made = "of unknown origin" if "error" in source else made
    values = {"kind": named, "bytes": count, "dtype": config.dtype, "origin": source}
    precision, ends = config.dtype, []
    if kind is sam_audio.ModelConfig:
        if packed := config.quantisation:
            precision = f"{packed.bits} bits, groups of {packed.group_size}"
        fits, missing = choice.fits(config, choice.weight_bytes(folder), LONG), config.missing
        packed = packed and asdict(packed)
        values |= {"quantisation": packed, "missing": missing, "fits": fits}
        ends = ["fits the memory" if fits else "does not fit the memory"]
        ends += [f"lacks {' and '.join(missing)}"] if missing else []
    if others := manifest.others(folder):
        values["others"] = others
        ends.append(f"holds {others[0]}, which is no part of it")
    return values, ", ".join([KINDS[named], size(count), precision, made, *ends])


def origin(folder: Path) -> Told:
    """What a model was converted from."""
    if folder == DEMO:
        return {"bundled": True}, "bundled"
    source = read_json(folder / "source.json")
    if (folder / HUB).exists():
        source["hub"] = read_json(folder / HUB)
    shared = f"{source['hub']['repo']} of " if "hub" in source else ""
    words = [f"{shared}{source['checkpoint']['repo']}"]
    if "known" in source["checkpoint"]:  # or it is older
        words[0] += " (Meta's)" if source["checkpoint"]["known"] else " (unknown to us)"
    others = [name for name in ("codec", "video", "watermark") if name in source]
    return source, ", ".join(words + [f"{name} of {source[name]['repo']}" for name in others])


def folders() -> Told:
    values, lines = {}, []
    for name, told in PLACES.items():
        values[name], words = attempt(told)
        lines.append(f"{name:{NAME}} {words}")
    return values, *lines


def place(path: Path, pattern: str = "") -> Told:
    """A folder; pattern: of the files whose sizes are added."""
    there = next(one for one in (path, *path.parents) if one.exists())
    values = {"path": str(path), "free_bytes": shutil.disk_usage(there).free}
    words = [str(path), f"{size(values['free_bytes'])} free"]
    if path != there:
        words[1:1] = ["not there yet"]
    elif pattern:
        values["bytes"] = sum(file.lstat().st_size for file in path.glob(pattern))
        words[1:1] = [size(values["bytes"])]
    return values, ", ".join(words)


PLACES: dict[str, Callable[[], Told]] = {
    "store": lambda: place(store(), "*/*"),
    "hub's cache": lambda: place(
        Path(importlib.import_module("huggingface_hub.constants").HF_HUB_CACHE), "*/blobs/*"
    ),
    "kernels": lambda: place(importlib.import_module("mlx_sam_audio.loading.kernels").place()),
    "temporary": lambda: place(Path(tempfile.gettempdir())),
}


def variables() -> Told:
    """Those that matter, without tokens and passwords."""
    found = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    for name, value in found.items():
        found[name] = "set" if "TOKEN" in name else re.sub(SECRET, r"\1...@", value)
    return found, ", ".join(f"{name}={value}" for name, value in found.items()) or "none is set"


def self_test() -> Told:
    import numpy as np

    start, record = time.perf_counter(), np.array(RECORD)
    error = float(np.linalg.norm(numbers() - record) / np.linalg.norm(record))
    seconds, most = time.perf_counter() - start, TOLERANCES[product_bits()]
    values = {"passed": error <= most, "error": error, "tolerance": most, "seconds": seconds}
    words = "passed" if values["passed"] else "FAILED: what is computed here is not what it must be"
    return values, f"{words}, relative error {error:.1e} of {most:g} allowed, {seconds:.1f} s"


def numbers() -> Any:
    """The bundled model separates its example: correlations of target and residual with noise, (2,
    8), which change as much as the sounds do, wherever they change."""
    import mlx.core as mx
    import numpy as np

    from ..demo import sounds
    from ..model import SAMAudio

    example = sounds.mixture(sounds.heldout_rng(SEED), SECONDS, count=2)
    model = SAMAudio.from_pretrained(DEMO)
    model.network.set_dtype(mx.float32)
    phrase = sounds.FAMILIES[example.names[0]].phrases[1]
    found = model.separate(example.mixture, phrase, steps=STEPS)
    stems = np.stack([np.array(found.target), np.array(found.residual)])
    return stems @ (sounds.heldout_rng(SEED).random((stems.shape[1], 8)) - 0.5)


PARTS: dict[str, Callable[[], Told]] = {
    "versions": versions,
    "system": system,
    "chip": chip,
    "memory": main_memory,
    "backend": backend,
    "kernels": kernels,
    "extras": extras,
    "models": all_models,
    "folders": folders,
    "variables": variables,
    "self-test": self_test,
}


def remove(name: str, sure: bool) -> None:
    """Remove a model from the store, if that is what is wanted."""
    found, name = {folder.name: folder for folder in models()}, shelved(name)
    if name not in found:
        if name == "demo":
            raise SAMAudioError("the model demo is a part of the package: it stays")
        raise SAMAudioError(f"there is no model {name} in {store()}{nearest(name, list(found))}")
    folder = found[name]
    kept = f"{folder} is not removed"
    if folder.is_symlink() or folder.resolve() == DEMO.resolve():
        raise SAMAudioError(f"{kept}: it is {folder.resolve()}, which is not the store's own")
    if not (folder / manifest.NAME).is_file():
        raise SAMAudioError(f"{kept}: it holds no {manifest.NAME}, so it may be no model")
    if others := manifest.others(folder):
        raise SAMAudioError(f"{kept}: it holds {', '.join(others)}, which is no part of the model")
    told = f"{name} ({size(sum(file.lstat().st_size for file in folder.iterdir()))}) from {store()}"
    if not sure:
        if not sys.stdin.isatty():
            raise SAMAudioError(f"{kept}: there is no terminal to ask on, so add --yes")
        if not agreed(f"remove {told}?"):
            print("nothing was removed")
            return
    try:
        files.remove(aside(folder))  # a conversion that was killed left it: it would come back
        gone = files.part(folder)
        os.replace(folder, gone)
        shutil.rmtree(gone)
    except OSError as error:
        raise SAMAudioError(f"cannot remove {folder}: {files.reason(error)}") from None
    print(plain(f"removed {told}"))
