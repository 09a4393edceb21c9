"""Long files: exact chunks, one field, no drift, no matter how the windows lie."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import mlx.core as mx
import numpy as np
import pytest
import soundfile
from mlx.utils import tree_flatten

from benchmarks import parity
from mlx_sam_audio import Cancelled, SAMAudioError, SAMAudioWarning, Span
from mlx_sam_audio.engine import draws, memory
from mlx_sam_audio.engine.checkpoint import Checkpoint, beside
from mlx_sam_audio.engine.condition import Conditions
from mlx_sam_audio.engine.item import Take
from mlx_sam_audio.engine.solve import Field, follow, solve
from mlx_sam_audio.engine.windows import Windows
from mlx_sam_audio.loading import manifest
from mlx_sam_audio.models import chunks

HOP = 1920
NOISE = np.random.default_rng(0).normal(0, 0.1, 60 * HOP).astype(np.float32)
FAST = dict(method="euler", steps=2)
SHORT = dict(window=0.8, overlap=0.24, **FAST)  # 20 and 6 frames


def pieces(samples: np.ndarray, size: int):
    return (samples[:, i : i + size] for i in range(0, samples.shape[1], size))


def joined(stream) -> tuple[mx.array, mx.array]:
    parts = list(stream)
    return tuple(mx.concatenate([getattr(p, n) for p in parts]) for n in ("target", "residual"))


@pytest.mark.parametrize("frames, block", [(1, 999), (3, 5000), (7, 1920), (250, 4321)])
@pytest.mark.parametrize("samples", [1, 1921, 21 * HOP, 23 * HOP + 17])
def test_encoding_in_chunks_is_exact(tiny, samples, frames, block):
    codec = tiny.network.audio_codec
    blocks = pieces(NOISE[None, :samples], block)
    parts = list(chunks.encode(codec, blocks, frames))
    whole = codec.encode(mx.array(NOISE[:samples])[None])
    assert sum(count for _, count in parts) == samples
    assert parity.relative_error(mx.concatenate([z for z, _ in parts], axis=1), whole) < 2e-6


@pytest.mark.parametrize("frames, part", [(1, 40), (5, 3), (8, 8), (250, 11)])
def test_decoding_in_chunks_is_exact(tiny, frames, part):
    codec = tiny.network.audio_codec
    latents = mx.random.normal((2, 29, 8), key=mx.random.key(1))
    message = mx.random.bernoulli(0.5, (2, 16), key=mx.random.key(2))
    parts = (latents[:, i : i + part] for i in range(0, 29, part))
    audio = mx.concatenate(list(chunks.decode(codec, parts, message, frames)), axis=1)
    # a BLAS sums in another order for other shapes: 0 with MLX's own, up to 3.7e-6 with OpenBLAS
    assert parity.relative_error(audio, codec.decode(latents, message)) < 5e-6


def test_a_smaller_halo_would_not_do(tiny):
    """The receptive field is computed from the layers, and it is not too large."""
    codec = tiny.network.audio_codec
    assert (codec.encoder_halo, codec.decoder_halo) == (6, 8)
    latents = mx.random.normal((1, 40, 8), key=mx.random.key(1))
    bumped = mx.concatenate([latents[:, :20], latents[:, 20:21] + 1, latents[:, 21:]], axis=1)
    change = mx.abs(codec.decode_clean(latents) - codec.decode_clean(bumped))[0]
    touched = np.flatnonzero(np.array(change)) // HOP
    assert touched.min() == 20 - codec.decoder_halo and touched.max() <= 20 + codec.decoder_halo


@pytest.mark.parametrize("frames", [20, 21, 33, 50, 61])
@pytest.mark.parametrize("size, overlap", [(20, 6), (20, 0), (20, 19), (20, 13)])
def test_windows_are_a_partition_of_unity(frames, size, overlap):
    windows = Windows.over(frames, size, overlap)
    weights, total = windows.weights(), np.zeros(frames)
    assert weights.min() >= 0
    for start, row in zip(windows.starts, weights, strict=True):
        total[start : start + windows.size] += row
    assert np.allclose(total, 1, atol=1e-6)


@pytest.mark.parametrize("samples", [20 * HOP, 9_001])
def test_one_window_is_separate(tiny, samples):
    wave, prompt = NOISE[:samples], dict(spans=[Span("+", 0.04, 0.15)], seed=3)
    result = tiny.separate(wave, "dog", **prompt, **FAST)
    long = tiny.separate_long(wave, "dog", **prompt, **SHORT)
    assert mx.array_equal(result.target, long.target)
    assert mx.array_equal(result.residual, long.residual)
    target, _ = joined(tiny.stream(wave, "dog", **prompt, **SHORT))
    assert mx.array_equal(result.target, target)


def test_batching_windows_changes_nothing(toy, monkeypatch):
    results = []
    for count in (1, 3, 8):
        monkeypatch.setattr(memory, "MOST_WINDOWS", count)
        results.append(toy.separate_long(NOISE[:1600], "dog", window=0.4, overlap=0.1, **FAST))
    assert parity.relative_error(results[1].target, results[0].target) < 1e-4
    assert parity.relative_error(results[2].target, results[0].target) < 1e-4


def test_windows_share_one_field(toy):
    """Each frame is moved by the cross-faded velocity, whatever windows it is in."""
    frames, size, overlap = 83, 50, 15
    options = dict(window=size / 125, overlap=overlap / 125, method="euler", steps=1)
    run = toy.prepare(NOISE[: frames * 8], "dog", **options)
    windows, conditions = run.windows, run.conditions()
    assert (windows.size, windows.starts) == (size, (0, 33))
    noise = np.array(draws.noise(toy.config.codec, frames, [0])[0])
    expected = noise.copy()
    for start, weight in zip(windows.starts, windows.weights(), strict=True):
        cut = slice(start, start + size)
        v = conditions.velocities(noise[None, cut], 0, [(0, start)])
        expected[cut] += weight[:, None] * v[0]
    state = run.solved(conditions, run.takes)
    assert parity.relative_error(state[:, 0], expected) < 1e-6


def test_rows_that_share_windows_are_solved_as_each_alone(toy):
    """Candidates of a long recording, however they fall into evaluations."""
    options = dict(window=0.4, overlap=0.1, candidates=3, **FAST)
    run = toy.prepare(NOISE[:1600], "dog", seed=4, **options)
    assert len(run.windows.starts) == 5 and run.memory.windows == 8
    together = run.solved(run.conditions(), [Take(seed, [0]) for seed in (4, 5, 6)])
    for row, seed in enumerate((4, 5, 6)):
        alone = toy.prepare(NOISE[:1600], "dog", **{**options, "candidates": 1}, seed=seed)
        state = alone.solved(alone.conditions(), alone.takes)[:, 0]
        assert parity.relative_error(together[:, row], state) < 1e-5


CASES = [
    (samples, window, overlap)
    for samples in (801, 1_000, 1_603, 2_400, 3_999)
    for window, overlap in ((0.4, 0.1), (0.44, 0.0), (0.5, 0.47), (0.61, 0.333), (0.7, 0.5))
]


@pytest.mark.parametrize("samples, window, overlap", CASES)
def test_length_and_alignment(toy, monkeypatch, samples, window, overlap):
    """With a model that returns the mixture itself, output frames are the input frames."""

    def mixture_as_target(self, x, t, places):
        cuts = [self.latents[item][start : start + x.shape[1]][:, 0] for item, start in places]
        return np.concatenate([np.stack(cuts)] * 2, axis=-1) - x

    monkeypatch.setattr(Conditions, "velocities", mixture_as_target)
    wave, codec = NOISE[:samples], toy.network.audio_codec
    expected = codec.decode_clean(codec.encode(mx.array(wave)[None]))[0, :samples]
    options = dict(window=window, overlap=overlap, method="euler", steps=1)
    result = toy.separate_long(wave, "dog", **options)
    assert result.target.shape == result.residual.shape == (samples,)
    assert parity.relative_error(result.target, expected) < 1e-4
    target, residual = joined(toy.stream(wave, "dog", **options))
    assert parity.relative_error(target, expected) < 1e-4
    assert parity.relative_error(residual, expected) < 1e-4


def test_spans_reach_every_window(tiny, monkeypatch):
    seen = {}
    velocities = Conditions.velocities

    def spy(self, x, t, places):
        for item, start in places:
            seen[start] = self.anchors[item, start : start + x.shape[1]]
        return velocities(self, x, t, places)

    monkeypatch.setattr(Conditions, "velocities", spy)
    frames = 46  # windows of frames 0-19, 14-33, 26-45
    spans = [Span("+", 0.6, 0.8), Span("-", 33 * 0.04, 46 * 0.04)]
    tiny.separate_long(NOISE[: frames * HOP], "dog", spans=spans, **SHORT)
    assert list(seen) == [0, 14, 26]
    rows = list(seen.values())
    assert [np.flatnonzero(row == 1).tolist() for row in rows] == [
        list(range(15, 20)),
        list(range(1, 6)),
        [],
    ]
    assert [np.flatnonzero(row == 2).tolist() for row in rows] == [[], [19], list(range(7, 20))]


def test_a_stream_yields_before_the_file_ends(tiny, tmp_path):
    soundfile.write(tmp_path / "a.wav", NOISE, 48_000, subtype="FLOAT")
    done = []
    stream = tiny.stream(
        tmp_path / "a.wav", "dog", progress=lambda now: done.append(now.fraction), **SHORT
    )
    first = next(stream)
    assert first.start == 0 and first.target.shape[0] == (20 - 6 - 8) * HOP
    assert done[-1] <= 0.5
    rest = list(stream)
    starts = [round(chunk.start * 48_000) for chunk in (first, *rest)]
    lengths = [chunk.target.shape[0] for chunk in (first, *rest)]
    assert starts == np.cumsum([0, *lengths[:-1]]).tolist()
    assert sum(lengths) == len(NOISE) and done[-1] == 1


def test_a_stream_goes_on_where_it_was(toy):
    """What is yielded before the next window starts is what the window alone makes of it, and the
    next window starts on the velocities that were fixed."""
    options = dict(window=0.4, overlap=0.12, method="midpoint", steps=3)
    run = toy.prepare(NOISE[:800], "dog", **options)
    noise, conditions = np.array(draws.noise(toy.config.codec, 100, [0])[0]), run.conditions()
    noise = noise[:, None]
    first, second, _ = follow(conditions, noise, run.windows, run.plan, 1, run.watch)
    field = Field(conditions, Windows.over(50, 50, 15), [0], 1, run.watch)
    alone = solve(field, noise[:50].copy(), run.plan, run.watch)
    assert parity.relative_error(first, alone[:35]) < 1e-5
    near, far = (np.linalg.norm(second[i] - alone[35 + i]) for i in (0, 14))
    assert near < 0.3 * far


def test_a_file_and_an_array_are_the_same(tiny, tmp_path):
    soundfile.write(tmp_path / "a.wav", NOISE, 48_000, subtype="FLOAT")
    from_file = tiny.separate_long(tmp_path / "a.wav", "dog", seed=2, **SHORT)
    from_array = tiny.separate_long(NOISE, "dog", seed=2, **SHORT)
    assert parity.relative_error(from_file.target, from_array.target) < 1e-6


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(window=1, overlap=1), "shorter than the window"),
        (dict(window=1, overlap=-0.1), "shorter than the window"),
        (dict(window=0.5, overlap=0.1), "receptive field"),
        (dict(window=401, overlap=3), "rotary table"),
        (dict(spans=[Span("+", 1, 3)]), "ends after the audio"),
        (dict(description=""), "prompt is empty"),
        (dict(noise=np.zeros((1, 5, 16))), r"noise must be \(1, 60, 16\)"),
    ],
)
def test_bad_options(tiny, options, message):
    with pytest.raises(SAMAudioError, match=message):
        tiny.separate_long(NOISE, **{"description": "dog", **SHORT, **options})


def test_subtracted_residual(tiny, tmp_path):
    soundfile.write(tmp_path / "a.wav", NOISE, 48_000, subtype="FLOAT")
    for audio in (NOISE, tmp_path / "a.wav"):
        target, residual = joined(tiny.stream(audio, "dog", residual="subtract", **SHORT))
        assert np.allclose(np.array(target + residual), NOISE, atol=1e-6)


@pytest.mark.parametrize("samples", [200, 2_000])
def test_cancel(toy, samples):
    options = dict(steps=2, window=0.4, overlap=0.1)
    polls = []
    toy.separate_long(NOISE[:samples], "dog", cancel=lambda: polls.append(0), **options)
    for stop in range(1, len(polls) + 1):  # wherever it is
        calls = itertools.count(1)
        cancel = (count >= stop for count in calls).__next__
        with pytest.raises(Cancelled):
            toy.separate_long(NOISE[:samples], "dog", cancel=cancel, **options)
        assert next(calls) == stop + 1
    assert len(polls) > 3  # evaluations


@pytest.mark.parametrize("residual", ["model", "subtract"])
def test_an_input_that_is_replaced_while_it_is_separated(toy, tmp_path, residual):
    path, wave = tmp_path / "a.wav", NOISE[:2_000]
    soundfile.write(path, wave, toy.sample_rate, subtype="FLOAT")
    settings = dict(window=0.4, overlap=0.1, steps=2, method="euler", residual=residual)
    before = toy.separate_long(path, "dog", **settings)

    def replace(now):
        if now.stage != "solve":
            return
        soundfile.write(path, -wave, toy.sample_rate, subtype="FLOAT")

    if residual == "subtract":  # for which it is read again
        with pytest.raises(SAMAudioError, match="a.wav changed while it was being separated"):
            toy.separate_long(path, "dog", progress=replace, **settings)
    else:
        after = toy.separate_long(path, "dog", progress=replace, **settings)
        assert mx.array_equal(before.target, after.target)


@pytest.mark.parametrize("name", ["x", "slopes", "done", "identity"])
def test_a_checkpoint_in_which_anything_was_changed(tmp_path, name):
    path, rows = tmp_path / "state", NOISE[:10]
    Checkpoint(path, {"file": "a"}, True).save(3, rows, [rows])
    with np.load(path) as saved:
        values = dict(saved)
    other = {"x": rows + 1e-6, "slopes": [rows, rows], "done": 4, "identity": '{"file": "b"}'}
    with open(path, "wb") as file:
        np.savez(file, **{**values, name: other[name]})
    with pytest.raises(SAMAudioError, match="state is damaged: remove it"):
        Checkpoint(path, {"file": "a"}, True).load(rows)


def test_a_run_whose_state_cannot_be_written_goes_on(toy, tmp_path):
    (tmp_path / "state").mkdir()
    kept = Checkpoint(tmp_path / "state", {}, False)
    with pytest.warns(
        SAMAudioWarning, match="cannot be resumed if it is interrupted: cannot write"
    ):
        kept.save(1, NOISE[:10], [])
    kept.save(2, NOISE[:10], [])
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("content", [b"", None])
def test_a_damaged_checkpoint(tmp_path, content):
    path = tmp_path / "state"
    Checkpoint(path, {"file": "a"}, True).save(3, NOISE[:10], [])
    path.write_bytes(path.read_bytes()[:-50] if content is None else content)
    with pytest.raises(SAMAudioError, match="state is damaged: remove it"):
        Checkpoint(path, {"file": "a"}, True).load(NOISE[:10])


@pytest.mark.parametrize("restart", [False, True])
def test_what_is_no_state_is_not_overwritten(toy, tmp_path, restart):
    path, options = tmp_path / "a.wav", dict(window=0.4, overlap=0.1, steps=1, method="euler")
    soundfile.write(path, NOISE[:900], toy.sample_rate)
    before = path.read_bytes()
    with pytest.raises(SAMAudioError, match="a.wav is no state of a run: give resume= another"):
        toy.separate_long(path, "dog", resume=path, restart=restart, **options)
    assert path.read_bytes() == before


def test_what_lies_under_the_name_of_a_state_is_overwritten(toy, tmp_path):
    """As the command names it, beside its output."""
    path = beside(tmp_path / "a.wav")
    path.write_bytes(b"left by a crash")
    result = toy.separate(NOISE[:400], "dog", resume=path, restart=True, **FAST)
    assert len(result.target) == 400 and not path.exists()


@pytest.fixture
def long_file(tmp_path):
    soundfile.write(tmp_path / "long.wav", NOISE, 48_000, subtype="FLOAT")
    return tmp_path


def peak_memory(folder, model, source) -> float:
    """Highest resident memory in bytes of one run of the command."""
    line = [sys.executable, "-m", "mlx_sam_audio.separate", "-m", str(model), "-i", source]
    line += ["-d", "dog", "-o", f"{source}.out.wav", "--method", "euler", "--steps", "1"]
    process = subprocess.Popen(line, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def test_five_minutes_of_flac(toy, tiny_folder, tmp_path):
    """Memory grows by the latents and the state of the solver, not by the audio."""
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(toy.config.to_dict()))
    mx.save_safetensors(
        str(folder / "model.safetensors"), dict(tree_flatten(toy.network.parameters()))
    )
    shutil.copy(tiny_folder / "spiece.model", folder)
    manifest.write(folder)
    seconds = np.arange(10 * 44_100) / 44_100
    tones = [0.3 * np.sin(2 * np.pi * f * seconds) for f in (220, 330)]
    for name, minutes in (("short", 1), ("long", 5)):
        with soundfile.SoundFile(tmp_path / f"{name}.flac", "w", 44_100, 2) as file:
            for _ in range(6 * minutes):
                file.write(np.stack(tones, axis=1))
    short, long = (peak_memory(tmp_path, folder, f"{name}.flac") for name in ("short", "long"))
    frames = 4 * 60 * toy.sample_rate // toy.hop_length
    latents = 4 * frames * toy.config.codec.codebook_dim
    assert long - short < 5 * latents + 32 * 2**20 < 4 * 4 * 60 * 44_100
    assert soundfile.info(tmp_path / "long.flac.out.wav").frames == 5 * 60 * toy.sample_rate


def command(folder, model, *more):
    line = [sys.executable, "-m", "mlx_sam_audio.separate", "-m", str(model), "-i", "long.wav"]
    line += ["-d", "dog", "--window", "0.8", "--overlap", "0.24", "--method", "euler"]
    return subprocess.Popen(
        [*line, "--steps", "40", *more], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_resume_after_kill(tiny_folder, long_file):
    assert command(long_file, tiny_folder, "-o", "whole.wav").wait() == 0
    process = command(long_file, tiny_folder, "-o", "killed.wav")
    state = long_file / ".killed.wav.resume"
    while not state.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (long_file / "killed.wav").exists()
    with np.load(state) as saved:
        assert 1 <= saved["done"] < 40

    other = command(long_file, tiny_folder, "-o", "killed.wav", "--resume", "--seed", "1")
    assert other.wait() == 2
    assert b"had another setting; repeat it" in other.stderr.read()
    again = command(
        long_file, tiny_folder, "-o", "killed.wav", "--resume", "--metrics-json", "run.json"
    )
    assert again.wait() == 0
    for name in ("", ".residual"):
        whole, killed = (
            soundfile.read(long_file / f"{run}{name}.wav", dtype="float32")[0]
            for run in ("whole", "killed")
        )
        assert np.array_equal(whole, killed)
    assert not state.exists()
    assert json.loads((long_file / "run.json").read_text())["windows"] == 4
