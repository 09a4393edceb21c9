"""Solvers at equal numbers of evaluations: error and time; `benchmarks.evaluate` has their scores.

python -m benchmarks.solvers                               the demo model, held-out mixtures
python -m benchmarks.solvers -m small -i mix.wav -d "dog"   any model and file: error and time
"""

import time

import numpy as np

from benchmarks import mixtures, report
from mlx_sam_audio import SAMAudio, Settings, ode
from mlx_sam_audio.engine.run import Item, Run

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

    def __init__(self, model: SAMAudio, waves, descriptions):
        self.model, self.waves = model, waves
        self.items = list(map(Item, map(model.encode, waves), descriptions))

    def solve(self, **settings) -> tuple[np.ndarray, float]:
        """The state (N, B, 2C) at t = 1, and seconds."""
        run = Run(self.model, self.items, Settings(**settings))
        conditions = run.conditions()
        start = time.perf_counter()
        return run.solved(conditions, run.takes), time.perf_counter() - start


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
                })  # fmt: skip
    return rows


def show(rows: list[dict]) -> None:
    """The errors, a line for each number of evaluations."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    report.head("evaluations", "real-time factor", *methods)
    for count in dict.fromkeys(row["evaluations"] for row in rows):
        found = {row["method"]: row for row in rows if row["evaluations"] == count}
        cells = []
        for method in methods:
            row = found.get(method)
            cells.append("" if row is None else f"{row['error']:.4f}")
        factor = np.median([row["real_time_factor"] for row in found.values()])
        report.line(count, f"{factor:.2f}", *cells)


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


def main(arguments: list[str]) -> None:
    parser = report.parser(__doc__, model="demo", mixtures=8, seed=0)
    parser.add_argument("-i", "--input", help="a file, for models other than the demo's")
    parser.add_argument("-d", "--description", default="speech", help="the prompt for the file")
    methods, counts = list(ode.METHODS), [1, 2, 4, 8, 16, 32, 64]
    said = "to compare"
    parser.add_argument("--methods", nargs="+", choices=methods, default=methods, help=said)
    parser.add_argument("--evaluations", type=int, nargs="+", default=counts, help=said)
    parser.add_argument("--picture", metavar="PNG", help="draw error against time")
    options = parser.parse_args(arguments)
    model = SAMAudio.from_pretrained(options.model)
    if options.input:
        problem = Problem(model, [model.samples(options.input)], [options.description])
    else:
        items = list(mixtures.items(options.mixtures, options.seed, 2.0, model.sample_rate))
        problem = Problem(model, [item.mixture for item in items], [item.phrase for item in items])
    rows = measure(problem, options.methods, options.evaluations)
    show(rows)
    report.write(options, rows)
    if options.picture:
        picture(rows, options.picture)


if __name__ == "__main__":
    report.run(main)
