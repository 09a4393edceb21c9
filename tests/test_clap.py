"""CLAP against the original's tensors: the towers stage by stage, the scores, the converter."""

import json
import re
import shutil
import zipfile
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import soxr
import torch

from benchmarks.parity import relative_error
from convert.__main__ import convert, main
from mlx_sam_audio import SAMAudioError, load
from mlx_sam_audio.clap import CLAP
from mlx_sam_audio.htsat import bicubic
from mlx_sam_audio.judge import Judge

ORIGINAL = Path(__file__).parent / "golden" / "clap"
STAGES = ("patches", "stage0", "stage1", "stage2", "stage3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return convert(str(ORIGINAL), tmp_path_factory.mktemp("models") / "clap")


@pytest.fixture(scope="module")
def clap(folder) -> CLAP:
    return CLAP.from_pretrained(folder)


@pytest.fixture(scope="module")
def golden() -> dict[str, mx.array]:
    return mx.load(str(ORIGINAL / "golden.safetensors"))


@pytest.fixture(scope="module")
def meta() -> dict:
    return json.loads((ORIGINAL / "golden.json").read_text())


@pytest.fixture(scope="module")
def same(golden, meta):
    """Whether a value is a golden tensor, as closely as float32 allows."""

    def check(name, value):
        limit = meta["tensors"][name]["tolerance_relative_l2"]
        assert relative_error(value, golden[name]) <= limit, name

    return check


@pytest.fixture(scope="module")
def waves(golden) -> list[np.ndarray]:
    """Two items of three candidates, and ten seconds."""
    items = [np.array(golden[f"input.item{i}"], np.float32) / 128 for i in range(2)]
    part = np.array(golden["input.ten_seconds"], np.float32) / 128
    return [*items, np.concatenate([part, part[::-1]] * 2)[None]]


@pytest.fixture(scope="module")
def clips(clap, waves) -> list[mx.array]:
    return [mx.array(clap.clips(item)[:, 0]) for item in waves]


@pytest.fixture(scope="module")
def mel(clap, clips) -> mx.array:
    return clap.network.audio_branch.logmel_extractor(clips[0][:1])


def test_sixteen_bits(clips, golden):
    steps = np.round(np.array(clips[0][0, :4000]) * 32767).astype(np.int16)
    assert np.array_equal(steps, golden["quantised"])


def test_log_mel(clap, clips, mel, same):
    same("mel.short", mel[0, ::4])
    same("mel.ten_seconds", clap.network.audio_branch.logmel_extractor(clips[2])[0, ::4])


def test_stretching():
    """As torch does it, which rounds positions to float32: exact ones are 3e-5 away."""
    places = torch.eye(1001)[None, None]
    expected = torch.nn.functional.interpolate(
        places, (1024, 1001), mode="bicubic", align_corners=True
    )
    assert relative_error(bicubic(1001, 1024), expected[0, 0].numpy()) < 1e-6


def test_stages(clap, mel, same):
    branch = clap.network.audio_branch
    x = branch.patch_embed(branch.fold(mel))
    for name, step in zip(STAGES, (8, 4, 4, 4, 4), strict=True):
        x = x if name == "patches" else branch.layers[int(name[-1])](x)
        same(f"htsat.{name}", x[0].flatten(0, 1)[::step])
    same("htsat.tokens", branch.tokens(mel)[0])


def test_audio_embeddings(clap, clips, same):
    pooled = mx.concatenate([clap.network.audio_branch(item) for item in clips])
    same("audio.pooled", pooled)
    same("audio.embeddings", clap.network.audio_projection(pooled))


def test_text(clap, golden, meta, same):
    tokens, mask = clap.tokenizer(meta["prompts"])
    length = tokens.shape[1]
    assert mx.array_equal(tokens, golden["input_ids"][:, :length]).item()
    assert (golden["input_ids"][:, length:] == clap.config.text.pad_token).all().item()
    same("text.pooled", clap.network.text_branch(tokens, mask))
    same("text.embeddings", clap.network.embed_text(tokens, mask))


def test_scores(clap, waves, meta, same):
    rows = zip(waves, meta["prompts"], strict=False)
    same("scores", np.stack([clap(candidates, text) for candidates, text in rows]))


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


def altered(tmp_path, change) -> str:
    """A folder with the checkpoint after `change` of what its file holds."""
    shutil.copytree(ORIGINAL / "roberta-base", tmp_path / "in" / "roberta-base")
    values = torch.load(ORIGINAL / "630k-best.pt", weights_only=True)
    change(values)
    torch.save(values, tmp_path / "in" / "630k-best.pt")
    return str(tmp_path / "in")


def test_every_tensor_is_used_or_named(folder, tmp_path):
    source = altered(tmp_path, lambda x: x["state_dict"].update({"module.new": torch.zeros(1)}))
    with pytest.raises(SAMAudioError, match="unexpected 1 tensors: module.new"):
        convert(source, tmp_path / "out")


def test_a_missing_tensor(tmp_path):
    source = altered(tmp_path, lambda x: x["state_dict"].pop("module.audio_branch.norm.bias"))
    with pytest.raises(SAMAudioError, match="lacks 1 tensors: module.audio_branch.norm.bias"):
        convert(source, tmp_path / "out")


def test_another_audio_tower(tmp_path):
    def change(values):
        state = values["state_dict"]
        values["state_dict"] = {k: v for k, v in state.items() if ".layers." not in k}

    with pytest.raises(SAMAudioError, match="no CLAP with HTS-AT"):
        convert(altered(tmp_path, change), tmp_path / "out")


@pytest.mark.parametrize("core", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_what_a_training_saves_beside_the_weights(folder, tmp_path, core):
    """NumPy's numbers are let in, under NumPy 1's name and NumPy 2's."""
    extra = {"best": np.float64(0.5), "optimizer": {"lr": np.float32(1)}}
    source = Path(altered(tmp_path, lambda x: x.update(extra)))
    with zipfile.ZipFile(source / "630k-best.pt") as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(source / "630k-best.pt", "w") as file:
        for name, part in parts.items():
            file.writestr(name, re.sub(rb"numpy\._?core\.multiarray", core, part))
    again = convert(str(source), tmp_path / "out")
    written = [mx.load(str(place / "model.safetensors")) for place in (folder, again)]
    assert written[0].keys() == written[1].keys()
    assert all(mx.array_equal(value, written[1][name]).item() for name, value in written[0].items())


def test_code_in_a_checkpoint(tmp_path):
    source = altered(tmp_path, lambda x: x.update(name=Path("x")))
    with pytest.raises(SAMAudioError, match="not a plain set of weights"):
        convert(source, tmp_path / "out")


def test_half_precision(folder, tmp_path, waves, meta, clap):
    half = CLAP.from_pretrained(convert(str(ORIGINAL), tmp_path / "half", dtype="float16"))
    text = meta["prompts"][0]
    assert np.allclose(half(waves[0], text), clap(waves[0], text), atol=0.02)


def test_not_quantised(tmp_path, capsys):
    assert main(["--hf-path", str(ORIGINAL), "--mlx-path", str(tmp_path / "out"), "-q"]) == 2
    assert "is converted without -q" in capsys.readouterr().err


def test_the_published_repo(tmp_path, monkeypatch):
    """Its weights from one repo, the tokenizer from another, under the name that is looked for."""
    places = {"lukewys/laion_clap": ORIGINAL, "FacebookAI/roberta-base": ORIGINAL / "roberta-base"}
    folder = tmp_path / "repo"
    folder.mkdir()
    (folder / "630k-best.pt").symlink_to(ORIGINAL / "630k-best.pt")
    places["lukewys/laion_clap"] = folder
    monkeypatch.setattr("convert.sources.download", lambda repo, *_: places[repo])
    monkeypatch.setattr("convert.__main__.store", lambda: tmp_path / "store")
    assert convert("clap") == tmp_path / "store" / "clap"
    monkeypatch.setattr(load, "store", lambda: tmp_path / "store")
    assert CLAP.from_pretrained().sample_rate == 48_000


def test_a_clap_is_no_judge(folder):
    with pytest.raises(SAMAudioError, match="belongs to a CLAP ranker, where a judge is needed"):
        Judge.from_pretrained(folder)
