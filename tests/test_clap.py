"""CLAP against the original's tensors: the towers stage by stage, the scores, the converter."""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import soxr
import torch
from hub import Hub, pointed_at

from benchmarks.parity import relative_error
from convert.command import convert
from mlx_sam_audio import SAMAudioError
from mlx_sam_audio.models.htsat import bicubic
from mlx_sam_audio.ranking.clap import CLAP

ORIGINAL = Path(__file__).parent / "golden" / "clap"
WEIGHTS = "630k-best.pt"


@pytest.fixture(scope="module")
def clap(folder) -> CLAP:
    return CLAP.from_pretrained(folder)


@pytest.fixture(scope="module")
def waves(golden) -> list[np.ndarray]:
    """Items of several candidates each, and ten seconds."""
    names = sorted(name for name in golden if name.startswith("input.item"))
    items = [np.array(golden[name], np.float32) / 128 for name in names]
    part = np.array(golden["input.ten_seconds"], np.float32) / 128
    return [*items, np.concatenate([part, part[::-1]] * 2)[None]]


@pytest.fixture(scope="module")
def clips(clap, waves) -> list[mx.array]:
    return [mx.array(clap.clips(item)[:, 0]) for item in waves]


@pytest.fixture(scope="module")
def mel(clap, clips) -> mx.array:
    return clap.network.audio_branch.logmel_extractor(clips[0][:1])


@pytest.fixture(scope="module")
def near_part(golden, near) -> Callable[[mx.array, str], bool]:
    """Compares with goldens that hold every so many rows only."""
    return lambda x, name: near(x[:: -(-len(x) // len(golden[name]))], name)


@pytest.mark.parity
def test_sixteen_bits(clips, golden):
    steps = np.round(np.array(clips[0][0, : golden["quantised"].size]) * 32767).astype(np.int16)
    assert np.array_equal(steps, golden["quantised"])


@pytest.mark.parity
def test_log_mel(clap, clips, mel, near_part):
    assert near_part(mel[0], "mel.short")
    assert near_part(clap.network.audio_branch.logmel_extractor(clips[-1])[0], "mel.ten_seconds")


def test_stretching():
    """As torch does it, which rounds positions to float32: exact ones are 3e-5 away."""
    places = torch.eye(1001)[None, None]
    expected = torch.nn.functional.interpolate(
        places, (1024, 1001), mode="bicubic", align_corners=True
    )
    assert relative_error(bicubic(1001, 1024), expected[0, 0].numpy()) < 1e-6


@pytest.mark.parity
def test_stages(clap, mel, near, near_part):
    branch = clap.network.audio_branch
    x = branch.patch_embed(branch.fold(mel))
    assert near_part(x[0].flatten(0, 1), "htsat.patches")
    for i, layer in enumerate(branch.layers):
        x = layer(x)
        assert near_part(x[0].flatten(0, 1), f"htsat.stage{i}")
    assert near(branch.tokens(mel)[0], "htsat.tokens")


@pytest.mark.parity
def test_audio_embeddings(clap, clips, near):
    pooled = mx.concatenate([clap.network.audio_branch(item) for item in clips])
    assert near(pooled, "audio.pooled")
    assert near(clap.network.audio_projection(pooled), "audio.embeddings")


@pytest.mark.parity
def test_text(clap, golden, meta, near):
    tokens, mask = clap.tokenizer(meta["prompts"])
    length = tokens.shape[1]
    assert mx.array_equal(tokens, golden["input_ids"][:, :length]).item()
    assert (golden["input_ids"][:, length:] == clap.config.text.pad_token).all().item()
    assert near(clap.network.text_branch(tokens, mask), "text.pooled")
    assert near(clap.network.embed_text(tokens, mask), "text.embeddings")


@pytest.mark.parity
def test_scores(clap, waves, meta, near):
    rows = zip(waves, meta["prompts"], strict=False)
    assert near(np.stack([clap(candidates, text) for candidates, text in rows]), "scores")


def test_padding_makes_no_difference(clap, meta):
    tokens, mask = clap.tokenizer(meta["prompts"])
    alone = clap.network.embed_text(*clap.tokenizer(meta["prompts"][:1]))
    assert relative_error(clap.network.embed_text(tokens, mask)[:1], alone) <= 1e-5


def test_long_sound_is_heard_whole(clap, waves):
    """The mean over ten seconds at a time; the last reach back, so that none is padded."""
    loud, ten = waves[1][:1], waves[2]
    quiet = np.tile(loud, 10)[:, :480_000]
    both = np.concatenate([ten, quiet], axis=1)
    scores = [clap(part, "a dog")[0] for part in (ten, quiet)]
    assert clap(both, "a dog")[0] == pytest.approx(np.mean(scores), abs=1e-6)
    starts = clap.clips(np.arange(720_000, dtype=np.float32)[None] / 1e6)[0, :, 0]
    assert np.allclose(starts, [0, 0.24], atol=1e-4)


def test_other_rates(clap):
    wave = np.random.default_rng(0).normal(0, 0.1, 24_000).astype(np.float32)
    scores = [
        clap([soxr.resample(wave, 16_000, 48_000, quality="VHQ")], "a dog"),
        clap([wave], "a dog", sample_rate=16_000),
        clap([wave], "a dog"),
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    assert scores[0] != pytest.approx(scores[2], abs=1e-3)


@pytest.mark.parametrize(
    "candidates, description, message",
    [
        (np.zeros((1, 9)), " ", "the description is empty"),
        (np.zeros(9), "dog", r"candidates must be \(k, samples\), not \(9,\)"),
        (np.zeros((0, 9)), "dog", r"not \(0, 9\)"),
        (np.full((1, 9), np.inf), "dog", "holds NaN or infinite"),
    ],
)
def test_errors(clap, candidates, description, message):
    with pytest.raises(SAMAudioError, match=message):
        clap(candidates, description)


def test_every_tensor_is_used_or_named(edit, refused):
    edit(WEIGHTS, lambda x: x["state_dict"].update({"module.new": torch.zeros(1)}))
    refused("unexpected 1 tensors: module.new")


def test_a_missing_tensor(edit, refused):
    edit(WEIGHTS, lambda x: x["state_dict"].pop("module.audio_branch.norm.bias"))
    refused("lacks 1 tensors: module.audio_branch.norm.bias")


def test_another_audio_tower(edit, refused):
    def change(values):
        state = values["state_dict"]
        values["state_dict"] = {k: v for k, v in state.items() if ".layers." not in k}

    edit(WEIGHTS, change)
    refused("no CLAP with HTS-AT")


def test_code_in_a_checkpoint(edit, refused):
    edit(WEIGHTS, lambda x: x.update(name=Path("x")))
    refused("not a plain set of weights")


@pytest.mark.parametrize("core", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_what_a_training_saves_beside_the_weights(folder, source, edit, tmp_path, core):
    """NumPy's numbers are let in, under NumPy 1's name and NumPy 2's."""
    extra = {"best": np.float64(0.5), "optimizer": {"lr": np.float32(1)}}
    edit(WEIGHTS, lambda x: x.update(extra))
    with zipfile.ZipFile(source / WEIGHTS) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(source / WEIGHTS, "w") as file:
        for name, part in parts.items():
            file.writestr(name, re.sub(rb"numpy\._?core\.multiarray", core, part))
    again = convert(str(source), tmp_path / "out")
    written = [mx.load(str(place / "model.safetensors")) for place in (folder, again)]
    assert written[0].keys() == written[1].keys()
    assert all(mx.array_equal(value, written[1][name]).item() for name, value in written[0].items())


def test_half_precision(folder, tmp_path, waves, meta, clap):
    half = CLAP.from_pretrained(convert(str(ORIGINAL), tmp_path / "half", dtype="float16"))
    text = meta["prompts"][0]
    assert np.allclose(half(waves[0], text), clap(waves[0], text), atol=0.02)


def test_the_published_repo(source, store, monkeypatch):
    """Its weights from one repo, the tokenizer from another, under the name that is looked for."""
    roberta = (source / "roberta-base").rename(source.parent / "roberta-base")
    with Hub() as hub:
        pointed_at(hub, monkeypatch, source.parent / "cache")
        hub.add("lukewys/laion_clap", source)
        hub.add("FacebookAI/roberta-base", roberta)
        assert convert("clap") == store / "clap"
    assert CLAP.from_pretrained().sample_rate == 48_000
