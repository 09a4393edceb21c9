"""Long files: what windows cost, and whether one hears where they meet.

python -m benchmarks.longform memory    time and memory against the file's length
python -m benchmarks.longform seams     quality inside and outside the overlaps, by method
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from benchmarks import machine, report
from mlx_sam_audio import SAMAudio, ode
from mlx_sam_audio.demo import sounds
from mlx_sam_audio.engine.windows import Windows, window_frames
from mlx_sam_audio.models.cpu import on_cpu
from mlx_sam_audio.ranking.metrics import level, si_sdr

FRAME = 0.05  # seconds


def memory(options) -> None:
    """Each length in a process of its own, through the command."""
    heads = "minutes", "seconds", "real-time factor", "peak memory", "latents and state", "the rest"
    report.head(*heads)
    rows = []
    config = SAMAudio.from_pretrained(options.model).config
    rate = config.codec.sample_rate / config.codec.hop_length
    with tempfile.TemporaryDirectory() as folder:
        for minutes in options.minutes:
            write_long(Path(folder) / "long.wav", minutes)
            command = [sys.executable, "-m", "mlx_sam_audio.separate", "-m", options.model]
            command += ["-i", "long.wav", "-o", "target.wav", "-d", options.description]
            command += ["--method", options.method, "--steps", str(options.steps)]
            command += ["--quiet", "--metrics-json", "told.json"]
            environment = {**os.environ, "PYTHONPATH": os.getcwd()}
            start = time.perf_counter()
            process = subprocess.Popen(command, cwd=folder, env=environment)
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise SystemExit("error: the command failed")
            seconds, peak = time.perf_counter() - start, machine.rss(usage)
            if not on_cpu():  # a GPU's memory is not the process's
                told = json.loads((Path(folder) / "told.json").read_text())
                peak = told["peak_memory_bytes"] / 2**20
            # the mixture's latents, and of both stems the state and the slopes that are kept
            arrays = 1 + 2 * (1 + ode.history(ode.plan(options.method, options.steps)))
            state = arrays * 4 * config.codec.codebook_dim * rate * 60 * minutes / 2**20
            sizes = [peak, state, peak - state]
            factor = seconds / 60 / minutes
            mib = [f"{size:.0f} MiB" for size in sizes]
            report.line(f"{minutes:g}", f"{seconds:.1f}", f"{factor:.2f}", *mib)
            rows.append(dict(zip(heads, [minutes, seconds, factor, *sizes], strict=True)))
    report.write(options, rows)


def write_long(path: Path, minutes: float) -> None:
    block = continuous("bell", 0, 20.0) + continuous("engine", 1, 20.0)
    with soundfile.SoundFile(path, "w", sounds.SAMPLE_RATE, 1, subtype="PCM_16") as file:
        for left in range(round(60 * minutes * sounds.SAMPLE_RATE), 0, -len(block)):
            file.write(block[:left])


def continuous(family: str, seed: int, seconds: float) -> np.ndarray:
    """Clips of one family end to end, (T,)."""
    rng = sounds.heldout_rng(seed)
    return np.concatenate([sounds.clip(family, rng, 4.0) for _ in range(round(seconds / 4))])


def in_windows(model: SAMAudio, wave: np.ndarray, description: str, windows, **solver):
    """The baseline: each window by itself, with noise of its own; waveforms cross-faded."""
    hop, size = model.hop_length, windows.size * model.hop_length
    out, weights = np.zeros(len(wave), np.float32), windows.weights()
    for k, (start, row) in enumerate(zip(windows.starts, weights, strict=True)):
        piece = wave[start * hop : start * hop + size]
        target = np.array(model.separate(piece, description, seed=k, **solver).target)
        fade = np.interp(np.arange(len(piece)) / hop, np.arange(len(row)) + 0.5, row)
        out[start * hop : start * hop + size] += fade.astype(np.float32) * target
    return out


def mixture(options, i: int) -> tuple[np.ndarray, np.ndarray, str]:
    """A long mixture of two sounds, the one that is asked for, and its prompt."""
    rng = sounds.heldout_rng(options.seed + i)
    names = [list(sounds.FAMILIES)[j] for j in np.argsort(rng.random(len(sounds.FAMILIES)))[:2]]
    sources = [continuous(n, 1000 * i + j, options.seconds) for j, n in enumerate(names)]
    return sum(sources), sources[0], sounds.FAMILIES[names[0]].phrases[1]


def seams(options) -> None:
    """Ways to put windows together, of one length and overlap."""
    model = SAMAudio.from_pretrained(options.model)
    size, overlap = window_frames(model, options.window, options.overlap)
    solver = dict(method=options.method, steps=options.steps)
    long = dict(window=options.window, overlap=options.overlap, **solver)
    rows: dict[str, list[dict[str, float]]] = {}
    for i in range(options.mixtures):
        wave, target, text = mixture(options, i)
        windows = Windows.over(-(-len(wave) // model.hop_length), size, overlap)
        cuts = Windows.over(windows.frames, size, 0)
        results = {
            "velocities cross-faded (separate_long)": lambda w, t: model.separate_long(
                w, t, **long
            ),
            "window after window (stream)": lambda w, t: model.stream(w, t, **long),
            "waveforms cross-faded": lambda w, t, v=windows: in_windows(model, w, t, v, **solver),
            "hard cuts": lambda w, t, v=cuts: in_windows(model, w, t, v, **solver),
            "one window": lambda w, t: model.separate(w, t, **solver),
        }
        for name, separate in results.items():
            estimate = as_samples(separate(wave, text))
            at = cuts if name == "hard cuts" else windows
            near = near_seams(at, model.hop_length, len(wave))
            rows.setdefault(name, []).append(judge(estimate, target, near, model.sample_rate))
            print(i, name, json.dumps(rows[name][-1], default=float), file=sys.stderr, flush=True)
    columns = list(next(iter(rows.values()))[0])
    report.head("method", *columns)
    for name, found in rows.items():
        report.line(name, *(report.mean([row[c] for row in found], ".2f") for c in columns))
    report.write(options, rows)


def as_samples(result) -> np.ndarray:
    if isinstance(result, np.ndarray):
        return result
    if hasattr(result, "target"):
        return np.array(result.target)
    return np.concatenate([np.array(chunk.target) for chunk in result])


def near_seams(windows: Windows, hop: int, samples: int) -> np.ndarray:
    """Where windows overlap, or a quarter of a second around a cut: bool (T,)."""
    near, margin = np.zeros(samples, bool), max(1, windows.size // 40)
    for before, start in zip(windows.starts, windows.starts[1:], strict=False):
        end = max(before + windows.size, start + margin)
        near[max(start - margin * (end == start + margin), 0) * hop : end * hop] = True
    return near


def judge(estimate: np.ndarray, target: np.ndarray, near: np.ndarray, rate: int) -> dict:
    """SI-SDR, and in frames of 50 ms the error of level and of phase, near seams and elsewhere."""
    size = round(FRAME * rate)
    count = len(target) // size
    a, b = (x[: count * size].reshape(count, size) for x in (estimate, target))
    heard = np.array([level(frame) > level(target) - 20 for frame in b])
    at = near[: count * size].reshape(count, size).any(1)
    steps = np.abs([level(x) - level(y) for x, y in zip(a, b, strict=True)])
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1) + 1e-9
    phase = 1 - (a * b).sum(1) / norms

    def of(values: np.ndarray, frames: np.ndarray) -> float | None:
        chosen = values[heard & frames]  # none, if there are no seams
        return float(chosen.mean()) if len(chosen) else None

    return {
        "SI-SDR at seams, dB": si_sdr(estimate[near], target[near]) if near.any() else None,
        "SI-SDR elsewhere, dB": si_sdr(estimate[~near], target[~near]) if not near.all() else None,
        "level error at seams, dB": of(steps, at),
        "level error elsewhere, dB": of(steps, ~at),
        "phase error at seams": of(phase, at),
        "phase error elsewhere": of(phase, ~at),
    }


def main(arguments: list[str]) -> None:
    parser = report.parser(
        __doc__, model="demo", mixtures=8, seed=0, seconds=60.0, method="ab3", steps=8
    )
    parser.add_argument("what", choices=("memory", "seams"), help="the table")
    parser.add_argument("-d", "--description", default="a bell ringing", help="memory: the prompt")
    parser.add_argument(
        "--minutes", type=float, nargs="+", default=[1, 10, 60], help="memory: of the files"
    )
    parser.add_argument("--window", type=float, default=10.0, help="seams: seconds")
    parser.add_argument("--overlap", type=float, default=3.0, help="seams: seconds")
    options = parser.parse_args(arguments)
    {"memory": memory, "seams": seams}[options.what](options)


if __name__ == "__main__":
    report.run(main)
