"""Several processes of mlx.launch: what they gain here, on paper, and whether they ever hang.

python -m benchmarks.cluster scaling   one recording, and a folder, by 1 and more processes
python -m benchmarks.cluster paper     2, 4 and 8 machines, from one's seconds
python -m benchmarks.cluster soak      many sums of several sizes, each checked
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from benchmarks import models, report
from mlx_sam_audio import SAMAudio
from mlx_sam_audio.engine import group

LAUNCH = "from mlx._distributed_utils.launch import main; main()"
LINKS = {  # bytes a second that TCP gets of a link, and seconds that a message takes; assumed
    "1 Gbit": (0.11e9, 3e-4),
    "10 Gbit": (1.1e9, 2e-4),
    "Thunderbolt": (2.5e9, 1e-4),
}
STAGES = "load", "encode", "solve", "decode", "write"
SIZES = 1, 257, 64 * 1024, 1024 * 1024  # floats, as of flags, short and long fields


def scaling(options) -> None:
    """Every process has one thread. Last, as many processes that know nothing of each other, each
    with a recording as long: what the machine allows."""
    heads = "what", "processes", *STAGES, "seconds", "speed-up", "real-time factor"
    report.head(*heads)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder, rate = Path(name), SAMAudio.from_pretrained(options.model).sample_rate
        noise = np.random.default_rng(options.seed).normal(0, 0.1, int(options.seconds * rate))
        (folder / "in").mkdir()
        soundfile.write(folder / "long.wav", noise, rate)
        for i, part in enumerate(np.array_split(noise, options.files)):
            soundfile.write(folder / f"in/{i}.wav", part, rate)
        for source in ("long.wav", "in"):
            alone = None
            for count in options.ranks:
                more = ["--metrics-json", f"{count}.json"] if source == "long.wav" else []
                out = f"{count}.wav" if more else f"out{count}"
                seconds = timed(options, folder, count, source, "-o", out, *more)
                stages = [""] * len(STAGES)
                if more:
                    told = json.loads((folder / f"{count}.json").read_text())
                    seconds = told["seconds"]["total"]
                    stages = [told["seconds"].get(stage, 0.0) for stage in STAGES]
                alone = alone or seconds
                row = [source, count, *stages, seconds, alone / seconds, seconds / options.seconds]
                report.line(*(f"{x:.2f}" if isinstance(x, float) else x for x in row))
                rows.append(dict(zip(heads, row, strict=True)))
        for count in options.ranks:
            with ThreadPoolExecutor(count) as pool:
                outs = [f"apart{i}.wav" for i in range(count)]
                runs = [pool.submit(timed, options, folder, 1, "long.wav", "-o", x) for x in outs]
                seconds = max(run.result() for run in runs) / count
            alone = seconds if count == options.ranks[0] else alone
            row = ["apart", count, *[""] * len(STAGES), seconds, alone / seconds]
            row.append(seconds / options.seconds)
            report.line(*(f"{x:.2f}" if isinstance(x, float) else x for x in row))
            rows.append(dict(zip(heads, row, strict=True)))
    report.write(options, rows)


def timed(options, folder: Path, count: int, *words: str) -> float:
    """Seconds of the command with so many processes. They are started as mlx.launch starts them,
    without its own process, which keeps a core busy."""
    command = [sys.executable, "-m", "mlx_sam_audio.separate", "-m", options.model, "-d", "a bird"]
    command += ["--method", options.method, "--steps", str(options.steps), "--no-metrics", *words]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    environment |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
    if count > 1:
        hosts, port = folder / "hosts.json", int(options.port)
        hosts.write_text(json.dumps([[f"127.0.0.1:{port + i}"] for i in range(count)]))
        environment["MLX_HOSTFILE"] = str(hosts)
    pipes = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    start = time.perf_counter()
    ranks = [
        subprocess.Popen(command, cwd=folder, env=environment | {"MLX_RANK": str(i)}, **pipes)
        for i in range(count)
    ]
    for rank in ranks:
        _, said = rank.communicate()
        if rank.returncode or "error" in said:
            raise SystemExit(f"error: the command failed: {said[-300:]}")
    return time.perf_counter() - start


def launcher(options, count: int) -> list[str]:
    return [sys.executable, "-c", LAUNCH, "-n", str(count), "--starting-port", options.port, "--"]


def paper(options) -> None:
    """Meta's small model in windows of 10 s, where each machine is so many times as fast as the
    one that took the seconds in the options, and has an accelerator of its own."""
    heads = "times as fast", "link", "machines", "compute", "network", "speed-up", "limited by"
    report.head(*heads)
    rows = []
    for fast in options.fast:
        alone = computed(options, fast, 1)["all"]
        for link, (pace, delay) in LINKS.items():
            for count in options.machines:
                parts, network = computed(options, fast, count), sent(options, count, pace, delay)
                total = parts["all"] + network
                most = max({**parts, "all": 0, "network": network}.items(), key=lambda x: x[1])[0]
                row = [fast, link, count, parts["all"], network, alone / total, most]
                report.line(*(f"{x:.1f}" if isinstance(x, float) else x for x in row))
                rows.append(dict(zip(heads, row, strict=True)))
    report.write(options, rows)


def computed(options, fast: float, count: int) -> dict[str, float]:
    """Seconds of what one of so many machines computes."""
    chunks = math.ceil(options.seconds / 10)
    windows = math.ceil((options.seconds - 3) / 7)
    share = 10 * math.ceil(chunks / count)  # seconds of sound
    decode = 2 * options.decode * math.ceil(2 * chunks / count) / (2 * chunks) * options.seconds
    parts = {
        "encoding": share * options.encode,
        "windows": options.steps * math.ceil(windows / count) * options.evaluation,
        "decoding": decode,
        "watermark": 2 * options.seconds * options.mark,  # which no two machines share
    }
    parts = {name: seconds / fast for name, seconds in parts.items()}
    return {**parts, "all": sum(parts.values())}


def sent(options, count: int, pace: float, delay: float) -> float:
    """Seconds of the sums: of every evaluation's field, of latents and of clean waveforms."""
    codec = models.CODEC
    frames = options.seconds * codec.sample_rate / codec.hop_length
    rounds = math.ceil(options.seconds / 10 / count)
    floats = (2 * options.steps + 1) * codec.codebook_dim * frames
    floats += 2 * options.seconds * codec.sample_rate
    around = 2 * (count - 1)  # steps of a ring, in which every machine sends its share
    return around * (4 * floats / count / pace + delay * (options.steps + 1 + rounds))


def soak(options) -> None:
    """Starts the processes, which run `sums`."""
    command = [sys.executable, "-m", "benchmarks.cluster", "sums"]
    command += ["--sums", str(options.sums), "--seed", str(options.seed)]
    for count in options.ranks:
        words = [*launcher(options, count), *command]
        environment = {**os.environ, "PYTHONPATH": os.getcwd()}
        done = subprocess.run(words, env=environment, capture_output=True, text=True)
        if done.stdout.count("right") != count:
            raise SystemExit(f"error: not all sums came out: {done.stdout}{done.stderr[-500:]}")
        print(f"{count} processes: {done.stdout.splitlines()[0]}")


def sums(options) -> None:
    """One of the processes: whole numbers, whose sums are exact."""

    def hangs() -> None:
        print("a sum hangs", flush=True)
        os._exit(1)

    ring, generator = group.joined_by_launch(60, hangs), np.random.default_rng(options.seed)
    mine, spent = np.random.default_rng(ring.rank), 0.0
    for _ in range(options.sums):
        shape = (int(generator.choice(SIZES)),)
        time.sleep(mine.exponential(0.002))  # nobody comes at the same time
        start = time.perf_counter()
        found = ring.joined(shape, lambda part: part.fill(ring.rank + 1))
        spent += time.perf_counter() - start
        assert (found == ring.size * (ring.size + 1) // 2).all()
    print(f"{options.sums} sums are right, {1e3 * spent / options.sums:.1f} ms each", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = report.parser(__doc__, model="demo", seconds=60.0, method="euler", steps=8, seed=0)
    parser.add_argument("what", choices=(*WHAT, "sums"), help="of these tables")
    parser.add_argument(
        "--ranks", type=report.positive, nargs="+", default=[1, 2], help="processes"
    )
    parser.add_argument("--files", type=report.positive, default=8, help="in the folder")
    parser.add_argument(
        "--machines", type=report.positive, nargs="+", default=[1, 2, 4, 8], help="on paper"
    )
    add = partial(parser.add_argument, type=float)
    add("--fast", nargs="+", default=[1.0, 30.0], help="paper: times")
    add("--encode", default=0.9, help="paper: seconds for one of sound")
    add("--evaluation", default=2.2, help="paper: seconds for a window of 10 s")
    add("--decode", default=1.2, help="paper: seconds for one of a stem")
    add("--mark", default=0.5, help="paper: seconds for the watermark of one of a stem")
    parser.add_argument("--sums", type=report.positive, default=500, help="of the soak")
    parser.add_argument("--port", default="23100", help="the first of the processes' ports")
    options = parser.parse_args(arguments)
    {**WHAT, "sums": sums}[options.what](options)


WHAT = {"scaling": scaling, "paper": paper, "soak": soak}

if __name__ == "__main__":
    report.run(main)
