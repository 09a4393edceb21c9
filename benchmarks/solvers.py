"""Solvers at equal numbers of evaluations: error, SI-SDR improvement, time.

python -m benchmarks.solvers                               the demo model, held-out mixtures
python -m benchmarks.solvers -m small -i mix.wav -d "dog"   any model and file: error and time
"""

import argparse
import json
import time

import numpy as np

from benchmarks import machine, quality
from mlx_sam_audio import SAMAudio, SAMAudioError, Settings, ode
from mlx_sam_audio.engine.run import Item, Run
from mlx_sam_audio.ranking.metrics import si_sdr

EXACT = dict(method="rk4", steps=64)  # 256 evaluations


def steps(method: str, evaluations: int) -> int | None:
    """How many steps take so many evaluations, if any number does."""
    if method in ode.RUNGE_KUTTA:
        stages = len(ode.RUNGE_KUTTA[method][0])
        return evaluations // stages if evaluations % stages == 0 else None
    if method in ode.ADAMS_BASHFORTH:  # the first step takes two
        return evaluations - 1 if evaluations > 1 else None
    return evaluations


class Problem:
    """One batch that every solver gets, with its noise."""

    def __init__(self, model: SAMAudio, waves, descriptions, targets=None):
        self.model, self.waves, self.targets = model, waves, targets
        self.items = list(map(Item, map(model.encode, waves), descriptions))

    def solve(self, **settings) -> tuple[np.ndarray, float]:
        """The state (N, B, 2C) at t = 1, and seconds."""
        run = Run(self.model, self.items, Settings(**settings))
        conditions = run.conditions()
        start = time.perf_counter()
        return run.solved(conditions, run.seeds), time.perf_counter() - start

    def improvement(self, x: np.ndarray) -> float | None:
        """Mean SI-SDR improvement of the targets in dB."""
        if self.targets is None:
            return None
        run = Run(self.model, self.items, Settings(residual="subtract", watermark=False))
        decoded = [stems[0] for stems in run.decoded(x, run.seeds)]
        return float(
            np.mean([
                si_sdr(np.array(found)[: len(target)], target) - si_sdr(wave, target)
                for found, wave, target in zip(decoded, self.waves, self.targets, strict=True)
            ])
        )  # fmt: skip


def relative(x: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(x - exact) / np.linalg.norm(exact))


def measure(problem: Problem, methods: list[str], counts: list[int]) -> list[dict]:
    exact, _ = problem.solve(**EXACT)
    seconds_of_audio = sum(map(len, problem.waves)) / problem.model.sample_rate
    rows = []
    for evaluations in counts:
        for method in methods:
            if number := steps(method, evaluations):
                x, seconds = problem.solve(method=method, steps=number)
                rows.append({
                    "method": method,
                    "evaluations": evaluations,
                    "seconds": seconds,
                    "real_time_factor": seconds / seconds_of_audio,
                    "error": relative(x, exact),
                    "sdri": problem.improvement(x),
                })  # fmt: skip
    return rows


def markdown(rows: list[dict]) -> str:
    """One line for each number of evaluations: error, and improvement where it is known."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    lines = ["| evaluations | real-time factor | " + " | ".join(methods) + " |"]
    lines.append("|" + "---|" * (len(methods) + 2))
    for count in dict.fromkeys(row["evaluations"] for row in rows):
        found = {row["method"]: row for row in rows if row["evaluations"] == count}
        cells = []
        for method in methods:
            row = found.get(method)
            gain = "" if row is None or row["sdri"] is None else f" ({row['sdri']:.1f} dB)"
            cells.append("" if row is None else f"{row['error']:.4f}{gain}")
        factor = np.median([row["real_time_factor"] for row in found.values()])
        lines.append(f"| {count} | {factor:.2f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def picture(rows: list[dict], path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axis = figure.subplots()
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        axis.loglog(
            [row["seconds"] for row in own], [row["error"] for row in own], "o-", label=method
        )
    axis.set_xlabel("seconds")
    axis.set_ylabel("relative error of the latents")
    axis.grid(alpha=0.3, which="both")
    axis.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-m", "--model", default="demo")
    parser.add_argument("-i", "--input", help="a file, for models other than the demo's")
    parser.add_argument("-d", "--description", default="speech")
    parser.add_argument("--methods", nargs="+", choices=ode.METHODS, default=list(ode.METHODS))
    parser.add_argument("--evaluations", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--mixtures", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="PATH", help="add one line of JSON to this file")
    parser.add_argument("--picture", metavar="PNG", help="draw error against time")
    options = parser.parse_args()
    try:
        model = SAMAudio.from_pretrained(options.model)
        if options.input:
            wave = model.samples(options.input)
            problem = Problem(model, [wave], [options.description])
        else:
            items = quality.items(options.mixtures, options.seed, 2.0, model.sample_rate)
            problem = Problem(
                model, [i.mixture for i in items], [i.phrase for i in items],
                [i.target for i in items],
            )  # fmt: skip
        rows = measure(problem, options.methods, options.evaluations)
        if options.picture:
            picture(rows, options.picture)
    except SAMAudioError as error:
        raise SystemExit(f"error: {error}") from None
    print(markdown(rows))
    line = json.dumps({"model": options.model, **machine.describe(), "rows": rows})
    if options.json:
        with open(options.json, "a") as file:
            file.write(line + "\n")
    else:
        print(line)


if __name__ == "__main__":
    main()
