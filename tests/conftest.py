import functools
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from benchmarks.parity import TINY, Golden, relative_error
from convert.command import convert
from convert.folder import write_json
from mlx_sam_audio import SAMAudio, SAMAudioError, cpu
from mlx_sam_audio.network import Network
from mlx_sam_audio.schema import read_json

os.environ["MLX_ENABLE_TF32"] = "0"  # an M5 would multiply float32 in 11 bits


def pytest_addoption(parser):
    parser.addoption("--model", help="a converted model, for -m weights")
    parser.addoption("--golden", help="its golden.safetensors, for -m weights")


@pytest.fixture(scope="session")
def converted(tmp_path_factory) -> Callable[[str], Path]:
    """The model folder of a checkpoint of tests/golden, by name, through the real converter."""
    models = tmp_path_factory.mktemp("models")
    return functools.cache(lambda name: convert(str(TINY.parent / name), models / name))


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
def original(request) -> Path:
    """The folder of tests/golden that a test module is about: its ORIGINAL, or else SAM-Audio's."""
    return getattr(request.module, "ORIGINAL", TINY)


@pytest.fixture(scope="module")
def folder(original, converted) -> Path:
    return converted(original.name)


@pytest.fixture(scope="module")
def golden(original) -> Golden | dict[str, mx.array]:
    """What the original computes; SAM-Audio's file says itself what is in it."""
    path = original / "golden.safetensors"
    return Golden(path) if original == TINY else mx.load(str(path))


@pytest.fixture(scope="module")
def meta(original) -> dict:
    """What golden.json says about it."""
    return read_json(original / "golden.json")


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
    folder = tmp_path / "store"
    for module in ("mlx_sam_audio.load", "convert.command"):
        monkeypatch.setattr(f"{module}.store", lambda: folder)
    return folder
