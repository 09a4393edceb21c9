from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest

from benchmarks.parity import TINY, Golden
from convert.__main__ import convert
from mlx_sam_audio import SAMAudio
from mlx_sam_audio.network import Network


def pytest_addoption(parser):
    parser.addoption("--model", help="a converted model, for -m weights")
    parser.addoption("--golden", help="its golden.safetensors, for -m weights")


@pytest.fixture(scope="session")
def golden() -> Golden:
    return Golden(TINY / "golden.safetensors")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """The tiny checkpoint, through the real converter."""
    return convert(str(TINY), tmp_path_factory.mktemp("models") / "tiny", dtype="float32")


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
