"""The judge computes what the original computes."""

import json
import subprocess
import sys
from dataclasses import astuple, replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import soundfile
import torch
from hub import Hub, pointed_at

from benchmarks.parity import relative_error
from convert.command import convert
from mlx_sam_audio import SAMAudioError
from mlx_sam_audio.judge import main
from mlx_sam_audio.loading.strict_json import read_json
from mlx_sam_audio.ranking import judge as judging
from mlx_sam_audio.ranking.judge import Judge

ORIGINAL = Path(__file__).parent / "golden" / "judge"
FROM_GOLDENS = {"case": lambda meta: meta["prompts"]}


@pytest.fixture(scope="module")
def judge(folder) -> Judge:
    return Judge.from_pretrained(folder)


def waves(golden, case) -> tuple[np.ndarray, np.ndarray]:
    """Mixtures and what was separated from them, each (B, T)."""
    kinds = ("mixture", "separated")
    return tuple(np.array(golden[f"input.{case}.{kind}"], np.float32) / 32768 for kind in kinds)


def latents(golden, case) -> mx.array:
    """(2B, N, C), mixtures first."""
    return golden[f"{case}.audio_codec"].transpose(0, 2, 1)


@pytest.mark.parity
def test_text(judge, golden, meta, near, case):
    network = judge.network
    tokens, mask = judge.tokenizer(meta["prompts"][case])
    assert mx.array_equal(tokens, golden[f"{case}.input_ids"]).item()
    assert mx.array_equal(mask, golden[f"{case}.attention_mask"] > 0).item()
    first = network.text_proj1(network.text_model(tokens, mask)[:, 0])
    assert near(first, f"{case}.text_proj1")
    assert near(network.embed_text(tokens, mask), f"{case}.layer_norm")


@pytest.mark.parity
def test_codec(judge, golden, near, case):
    encoded = judge.network.audio_codec.encode(mx.array(np.concatenate(waves(golden, case))))
    assert near(encoded.swapaxes(1, 2), f"{case}.audio_codec")


@pytest.mark.parity
def test_audio_stages(judge, golden, near, case):
    network = judge.network
    assert near(network.embed_audio(latents(golden, case)), f"{case}.transformer")
    mixture, separated = mx.split(golden[f"{case}.transformer"], 2)
    audio = network.cat_audio_proj(mx.concatenate([separated, mixture], axis=-1))
    assert near(audio, f"{case}.cat_audio_proj")
    fused = network.finetune_data_proj(golden[f"{case}.proj_audio_and_text"])
    assert near(network.finetune_transformer(fused), f"{case}.finetune_transformer")
    assert near(network.head(golden[f"{case}.finetune_transformer"]), f"{case}.head")
    assert near(network(mixture, separated, golden[f"{case}.layer_norm"]), f"{case}.scores")


@pytest.mark.parity
def test_scores(judge, golden, meta, near, case):
    rows = zip(*waves(golden, case), meta["prompts"][case], strict=True)
    scores = [astuple(judge(mixture, [separated], text)[0]) for mixture, separated, text in rows]
    assert near(scores, f"{case}.scores")


@pytest.mark.parity
def test_several_candidates(judge, golden, meta, near):
    """The original ranker's overall scores; each candidate's own, whatever stands beside it."""
    count = golden["ranker.scores"].shape[1]
    case = next(case for case, prompts in meta["prompts"].items() if len(prompts) == count)
    mixtures, candidates = waves(golden, case)
    together = judge(mixtures[0], candidates, meta["ranker_prompt"])
    assert near([[score.overall for score in together]], "ranker.scores")
    assert [together[1]] == judge(mixtures[0], candidates[1:], meta["ranker_prompt"])


def test_mixture_and_candidate_are_not_alike(judge, golden):
    mixture, separated = mx.split(golden["pair.transformer"], 2)
    text = golden["pair.layer_norm"]
    swapped = judge.network(separated, mixture, text)
    assert relative_error(swapped, golden["pair.scores"]) > 1e-2


def test_long_audio_is_encoded_in_pieces(judge, golden, monkeypatch):
    wave = waves(golden, "pair")[0][0]
    whole = judge.network.embed_audio(judge.network.audio_codec.encode(mx.array(wave)[None]))
    monkeypatch.setattr(judging, "FRAMES", 8)
    assert relative_error(judge.embed(wave), whole) <= 1e-5


@pytest.mark.parametrize(
    "mixture, candidates, description, message",
    [
        (np.zeros(9), np.zeros((1, 9)), " ", "the description is empty"),
        (np.zeros(9), np.zeros((1, 8)), "dog", r"of that length, not \(9,\) and \(1, 8\)"),
        (np.zeros(9), np.zeros(9), "dog", r"not \(9,\) and \(9,\)"),
        (np.zeros(9), np.zeros((0, 9)), "dog", "nothing to judge"),
        (np.zeros(9), np.full((1, 9), np.nan), "dog", "holds NaN"),
        (np.zeros(39_000), np.zeros((1, 39_000)), "dog", "lasts 1 s, the judge hears at most 1 s"),
    ],
)
def test_errors(judge, mixture, candidates, description, message):
    short = replace(judge.config.finetune_transformer, max_positions=21)  # class token, 20 frames
    config = replace(judge.config, finetune_transformer=short)
    with pytest.raises(SAMAudioError, match=message):
        Judge(config, judge.network, judge.tokenizer)(mixture, candidates, description)


def test_a_clip_shorter_than_a_frame(judge):
    wave = np.random.default_rng(0).normal(0, 0.1, 700).astype(np.float32)
    assert np.isfinite(astuple(judge(wave, [wave], "dog")[0])).all()


def test_what_is_left_out(folder):
    state = torch.load(ORIGINAL / "checkpoint.pt", weights_only=True)
    text = {name for name in state if name.startswith("text_model.")}
    ours = set(mx.load(str(folder / "model.safetensors")))
    parts = (".layers.6.", ".layers.7.", ".final_norm.")
    assert {name for name in ours if name.startswith("text_model.")} == {
        name for name in text if not any(part in name for part in parts)
    }
    folded = {name.replace("weight_v", "weight") for name in set(state) - text}
    assert {name for name in folded if not name.endswith("weight_g")} == ours - text


def test_an_unknown_setting(edit, refused):
    edit("config.json", lambda values: values.update(flavour=1))
    refused("config.json has unknown keys: flavour")


def test_its_tokenizer_lies_on_the_main_branch(tmp_path, monkeypatch):
    with Hub() as hub:
        pointed_at(hub, monkeypatch, tmp_path / "cache")
        branches = {"sam_audio": ("config.json", "checkpoint.pt"), "main": ("tokenizer.json",)}
        commits = [
            hub.add(
                "facebook/sam-audio-judge",
                {name: (ORIGINAL / name).read_bytes() for name in names},
                branch=branch,
            )
            for branch, names in branches.items()
        ]
        origin = read_json(convert("judge", tmp_path / "out") / "source.json")
    assert [origin[part]["revision"] for part in ("checkpoint", "tokenizer")] == commits


@pytest.fixture
def files(golden, tmp_path, monkeypatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    mixtures, candidates = waves(golden, "pair")
    for name, wave in {"mix": mixtures[0], "a": candidates[0], "b": candidates[1]}.items():
        soundfile.write(f"{name}.wav", wave, 48_000, subtype="FLOAT")
    return ["-i", "mix.wav", "-t", "a.wav", "b.wav", "-d"]


def test_the_program(folder, files, golden, meta):
    command = [sys.executable, "-m", "mlx_sam_audio.judge", *files, meta["ranker_prompt"]]
    done = subprocess.run([*command, "-m", str(folder), "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert [row["target"] for row in values["targets"]] == ["a.wav", "b.wav"]
    overall = [[row["overall"] for row in values["targets"]]]
    assert relative_error(overall, golden["ranker.scores"]) <= 1e-4


def test_the_table(folder, files, golden, meta, capsys):
    assert main([*files, meta["ranker_prompt"], "-m", str(folder)]) == 0
    head, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    assert head == ["overall", "recall", "precision", "faithfulness"]
    assert [row[0] for row in rows] == ["a.wav", "b.wav"]
    overall = [float(row[1]) for row in rows]
    assert np.allclose(overall, np.array(golden["ranker.scores"])[0], atol=6e-4)


def test_files_of_other_rates(folder, files, capsys):
    """Resampled, they may differ by a sample; by a frame they may not."""
    soundfile.write("a.wav", np.zeros(55_000 // 3), 16_000)
    assert main([*files, "dog", "-m", str(folder)]) == 0
    soundfile.write("a.wav", np.zeros(17_000), 16_000)
    assert main([*files, "dog", "-m", str(folder)]) == 2
    assert "mix.wav lasts 1.15 s and a.wav 1.06 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change, message",
    [
        (["-i", "nowhere.wav"], "there is no file nowhere.wav"),
        (["-t", "nowhere.wav"], "there is no file nowhere.wav"),
        (["-t", "text.wav"], "cannot read text.wav"),
        (["-d", ""], "the description is empty"),
        (["-m", "judge"], "not converted yet: run `python -m convert --hf-path judge`"),
    ],
)
def test_errors_are_one_line(folder, files, store, capsys, change, message):
    Path("text.wav").write_text("no sound at all")
    assert main([*files, "dog", "-m", str(folder), *change]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
