import contextlib
import functools
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from benchmarks.parity import TINY, Golden, relative_error, visual_goldens
from convert.command import convert
from convert.folder import write_json
from convert.sam_audio_config import TOWERS
from convert.torch_file import TorchWeights
from mlx_sam_audio import SAMAudio, SAMAudioError
from mlx_sam_audio.loading.strict_json import read_json
from mlx_sam_audio.models import cpu
from mlx_sam_audio.models.sam_audio import Network

os.environ["MLX_ENABLE_TF32"] = "0"  # an M5 or CUDA would multiply float32 in 11 bits
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    # what MLX compiles for CPUs stays in a temporary folder: two processes would write one file
    folder = Path(tempfile.gettempdir(), f"mlx-{os.getuid()}-{worker}")
    folder.mkdir(mode=0o700, exist_ok=True)
    os.environ["TMPDIR"], tempfile.tempdir = str(folder), None


def pytest_addoption(parser):
    with contextlib.suppress(ValueError):  # an installed package has told pytest before
        parser.addoption("--goldens", type=Path, default=TINY.parent)
    parser.addoption("--model", help="a converted model, for -m weights")
    parser.addoption("--golden", help="its golden.safetensors, for -m weights")


def pytest_configure(config):
    goldens = config.getoption("goldens")
    if not any(goldens.glob("*/golden.safetensors")):
        raise pytest.UsageError(f"--goldens: {goldens} holds no */golden.safetensors")


def pytest_collection_modifyitems(config, items):
    """Goldens that are not ours are for the tests that take all sizes from them."""
    goldens = config.getoption("goldens")
    if goldens == TINY.parent:
        return
    parity = [item for item in items if item.get_closest_marker("parity")]
    config.hook.pytest_deselected(items=[item for item in items if item not in parity])
    items[:] = parity
    for item in parity:
        if not (goldens / about(item.module) / "golden.safetensors").exists():
            reason = f"{goldens} holds no goldens of {about(item.module)}"
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_generate_tests(metafunc):
    """Runs a test for all that its module's FROM_GOLDENS finds in what the goldens tell."""
    path = metafunc.config.getoption("goldens") / about(metafunc.module)
    for name, found in getattr(metafunc.module, "FROM_GOLDENS", {}).items():
        if name in metafunc.fixturenames:
            here = (path / "golden.safetensors").exists()
            metafunc.parametrize(name, list(found(told(path))) if here else [None])


def about(module) -> str:
    """The folder of goldens that a test module is about: its ORIGINAL's, or else SAM-Audio's."""
    return getattr(module, "ORIGINAL", TINY).name


def told(folder: Path) -> dict:
    """What is said about the goldens in a folder."""
    if folder.name == TINY.name:
        return Golden(folder / "golden.safetensors").meta
    return read_json(folder / "golden.json")


@pytest.fixture(scope="session")
def goldens(pytestconfig, tmp_path_factory) -> Path:
    """The folder of --goldens. If SAM-Audio's does not tell the sizes of its vision tower, which
    the converter needs, links to it beside a config.json that does."""
    folder = pytestconfig.getoption("goldens").resolve()
    config = read_json(folder / "tiny/config.json") if (folder / "tiny").exists() else {}
    vision = config.get("vision_encoder")
    if not vision or vision["name"] in TOWERS or "tower" in vision:
        return folder
    vision["tower"] = tower(folder / "tiny" / "checkpoint.pt")
    links = tmp_path_factory.mktemp("goldens")
    for path in (*folder.iterdir(), *(folder / "tiny").iterdir()):
        link = links / path.relative_to(folder)
        link.mkdir() if path == folder / "tiny" else link.symlink_to(path)
    (links / "tiny" / "config.json").unlink()
    write_json(links / "tiny" / "config.json", config)
    return links


def tower(path: Path) -> dict[str, int]:
    """Sizes of a checkpoint's vision tower. Heads show in no shape: two, as make_golden.py's."""
    shapes = TorchWeights(path).shapes
    width, _, patch_size, _ = shapes["vision_encoder.model.visual.conv1.weight"]
    layers = sum(bool(re.search(r"\.visual\..*\.\d+\.ln_1\.bias$", name)) for name in shapes)
    return dict(patch_size=patch_size, width=width, layers=layers, heads=2)


@pytest.fixture(scope="session")
def converted(goldens, tmp_path_factory) -> Callable[[str], Path]:
    """The model folder of a checkpoint among the goldens, by name, through the real converter."""
    models = tmp_path_factory.mktemp("models")
    return functools.cache(lambda name: convert(str(goldens / name), models / name))


@pytest.fixture(scope="module", params=["metal", "cpu"])
def side(request) -> Iterator[str]:
    """Runs a module with what Metal runs, and with the stand-ins for MLX's CPU backend. Its models
    are to be made here, since those that were used stay on their side."""
    with cpu.forced(request.param == "cpu"):
        yield request.param


@pytest.fixture(scope="session")
def tiny_folder(converted) -> Path:
    return converted("tiny")


@pytest.fixture(scope="session")
def tiny(tiny_folder) -> SAMAudio:
    return SAMAudio.from_pretrained(tiny_folder)


@pytest.fixture(scope="session")
def toy(tiny) -> SAMAudio:
    """Random weights, 1000 Hz, hop 8: for what holds whatever the weights, in little time."""
    codec = replace(
        tiny.config.codec,
        sample_rate=1000,
        encoder_rates=(2, 4),
        decoder_rates=(4, 2),
        decoder_dim=8,
        codebook_dim=4,
        watermark=False,
    )
    transformer = replace(tiny.config.transformer, out_channels=8)
    config = replace(tiny.config, codec=codec, transformer=transformer, vision=None)
    mx.random.seed(0)
    return SAMAudio(config, Network(config), tiny.tokenizer)


@pytest.fixture
def fresh_tiny(tiny_folder) -> SAMAudio:
    """A model of its own, for tests that change it."""
    return SAMAudio.from_pretrained(tiny_folder)


@pytest.fixture(scope="module")
def original(request, goldens) -> Path:
    """The folder of goldens that a test module is about."""
    return goldens / about(request.module)


@pytest.fixture(scope="module")
def folder(original, converted) -> Path:
    return converted(original.name)


@pytest.fixture(scope="module")
def golden(original) -> Golden | dict[str, mx.array]:
    """What the original computes; SAM-Audio's file says itself what is in it."""
    path = original / "golden.safetensors"
    return Golden(path) if original.name == TINY.name else mx.load(str(path))


@pytest.fixture(scope="module")
def seen(original) -> Golden:
    """What the original computes where it sees a video."""
    return visual_goldens(original / "golden.safetensors") or pytest.skip("none with a video")


@pytest.fixture(scope="module")
def meta(original) -> dict:
    return told(original)


@pytest.fixture(scope="module")
def near(golden, meta) -> Callable[..., bool]:
    """Are values those of a golden tensor, or of its given part, as closely as golden.json asks?"""

    def compare(values, name: str, part=...) -> bool:
        error = relative_error(values, np.array(golden[name])[part])
        return error <= meta["tensors"][name]["tolerance_relative_l2"]

    return compare


@pytest.fixture
def source(original, tmp_path) -> Path:
    """A copy of the checkpoint, for tests that change it."""
    return shutil.copytree(original, tmp_path / "source")


@pytest.fixture
def edit(source) -> Callable[[str, Callable], None]:
    """Applies a function to the settings or tensors, by name, in a file of `source`."""

    def edit(name: str, change: Callable[[dict], object]) -> None:
        path = source / name
        if path.suffix == ".json":
            values = read_json(path)
            change(values)
            write_json(path, values)
        elif path.suffix == ".safetensors":
            values = load_file(path)
            change(values)
            save_file(values, path)
        else:
            import torch

            values = torch.load(path, weights_only=True)
            change(values)
            torch.save(values, path)

    return edit


@pytest.fixture
def refused(source, tmp_path) -> Callable[..., None]:
    """Checks that the converter refuses `source` with a message, and writes nothing."""

    def check(message: str, **options) -> None:
        with pytest.raises(SAMAudioError, match=message):
            convert(str(source), tmp_path / "out", **options)
        assert [path.name for path in tmp_path.iterdir()] == ["source"]

    return check


@pytest.fixture
def store(tmp_path, monkeypatch) -> Path:
    """An empty local store of converted models."""
    monkeypatch.setenv("SAM_AUDIO_HOME", str(tmp_path / "store"))
    return tmp_path / "store"
