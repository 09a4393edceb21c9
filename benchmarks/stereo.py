"""Ways to separate stereo, on held-out mixtures of known sources.

python -m benchmarks.stereo methods     sources panned over the whole range
python -m benchmarks.stereo cases       hard left, in antiphase, moving
python -m benchmarks.stereo absent      the level of what is not there
python -m benchmarks.stereo windows     statistics, exponents and sizes of the filter
python -m benchmarks.stereo picture     of a target that moves
"""

import time
from collections.abc import Callable

import numpy as np

from benchmarks import report
from benchmarks.scenes import (
    ANYWHERE,
    FRAME,
    Scene,
    differences,
    heard_in,
    judged,
    scenes,
    under,
)
from mlx_sam_audio import SAMAudio
from mlx_sam_audio.media import figures, spectrogram
from mlx_sam_audio.ranking.metrics import level

Stems = tuple[np.ndarray, np.ndarray]  # target and residual, (2, T)
CASES = (
    ("left", "centre"),
    ("left", "right"),
    ("centre", "centre"),
    ("antiphase", "centre"),
    ("centre", "antiphase"),
    ("moving", "pan"),
)
BASE = "mid"
SHARE = 'the mean of both channels, residual="share"'


def stems(result) -> Stems:
    return np.array(result.target), np.array(result.residual)


def folded(model: SAMAudio, wave: np.ndarray, text: str, **settings) -> Stems:
    target, residual = stems(model.separate(wave.mean(0), text, **settings))
    return np.stack([target, target]), np.stack([residual, residual])


def apart(model: SAMAudio, wave: np.ndarray, text: str, **settings) -> Stems:
    """Each channel alone, from the same noise."""
    both = [stems(model.separate(channel, text, **settings)) for channel in wave]
    return tuple(map(np.stack, zip(*both, strict=True)))


def shipped(stereo: str) -> Callable[..., Stems]:
    return lambda model, wave, text, **settings: stems(
        model.separate(wave, text, stereo=stereo, **settings)
    )


METHODS = {
    "the mean of both channels, twice": folded,
    "left and right, each alone": apart,
    "mid": shipped("mid"),
    "both": shipped("both"),
}


def compare(model: SAMAudio, scene: Scene, text: str, **settings) -> dict[str, dict[str, float]]:
    """Every method's errors in dB, and its seconds."""
    found, mixture = {}, scene.mixture
    for name, separate in METHODS.items():
        start = time.perf_counter()
        target, residual = separate(model, mixture, text, **settings)
        seconds = time.perf_counter() - start
        rest = mixture - target
        empty = [level(target[c]) for c in (0, 1) if not scene.target[c].any()]
        found[name] = {
            **judged(target, scene),
            "sum": under(rest - residual, mixture),
            "level": under(target, mixture),
            "leak": empty[0] - max(map(level, target)) if empty else None,
            "seconds": seconds,
        }
    return found


def methods(options, model: SAMAudio, solver: dict) -> None:
    drawn = list(scenes(options.mixtures, options.seed, options.seconds, model.sample_rate))
    rows = report.each(
        options, drawn, lambda scene: compare(model, scene, scene.phrases[0], **solver)
    )
    first = next(iter(METHODS))
    heads = ["method", "joint", f"against {BASE}", "joint: " + " / ".join(ANYWHERE), "per channel"]
    report.head(*heads, "image: mean (median)", "wander", "sum", "cost")
    for name in METHODS:
        own = {key: [row[name][key] for row in rows] for key in rows[0][name]}
        paired = np.subtract(own["joint"], [row[BASE]["joint"] for row in rows])
        by_kind = [
            [j for j, scene in zip(own["joint"], drawn, strict=True) if scene.kind == kind]
            for kind in ANYWHERE
        ]
        costs = np.divide(own["seconds"], [row[first]["seconds"] for row in rows])
        report.line(
            name,
            report.mean(own["joint"]),
            "0" if name == BASE else report.mean(paired, "+.1f"),
            " / ".join(f"{np.mean(part):.1f}" if part else "-" for part in by_kind),
            report.mean(own["channels"]),
            f"{np.mean(own['image']):.1f} ({np.median(own['image']):.1f})",
            report.mean(own["wander"]),
            f"{np.max(own['sum']):.0f}",
            f"{np.median(costs):.2f}",
        )
    report.write(options, rows)


def absent(options, model: SAMAudio, solver: dict) -> None:
    def levels(scene: Scene) -> dict[str, float]:
        wave, text = scene.mixture, scene.absent
        found = {name: METHODS[name](model, wave, text, **solver)[0] for name in METHODS}
        mean = wave.mean(0)
        share = stems(model.separate(mean, text, residual="share", **solver))[0]
        levels = {name: under(target, wave) for name, target in found.items()}
        return levels | {SHARE: under(share, mean)}

    drawn = list(scenes(options.mixtures, options.seed, options.seconds, model.sample_rate))
    rows = report.each(options, drawn, levels)
    report.head("method", "level", f"against {BASE}", "median", "under -20 dB")
    for name in rows[0]:
        own = [row[name] for row in rows]
        paired = np.subtract(own, [row[BASE] for row in rows])
        against = "0" if name == BASE else report.mean(paired, "+.1f")
        faint = f"{np.mean(np.less(own, -20)):.0%}"
        report.line(name, report.mean(own), against, f"{np.median(own):.1f}", faint)
    report.write(options, rows)


def cases(options, model: SAMAudio, solver: dict) -> None:
    kinds = [options.mixtures, options.seed, options.seconds, model.sample_rate, CASES]
    drawn = list(scenes(*kinds, number=2))
    rows = report.each(
        options, drawn, lambda scene: compare(model, scene, scene.phrases[0], **solver)
    )
    report.head("target, rest", *METHODS)
    for kind in dict.fromkeys(scene.kind for scene in drawn):
        own = [row for row, scene in zip(rows, drawn, strict=True) if scene.kind == kind]
        cells = []
        for name in METHODS:
            leaks = [row[name]["leak"] for row in own if row[name]["leak"] is not None]
            leak = f", leak {np.median(leaks):.0f}" if leaks else ""
            cells.append(report.mean([row[name]["joint"] for row in own]) + leak)
        report.line(kind, *cells)
    report.write(options, rows)


def picture(options, model: SAMAudio, solver: dict) -> None:
    """A target that moves: spectrograms of both channels, and their level difference over time."""
    given = options.mixtures, options.seed, options.seconds, model.sample_rate
    *_, scene = scenes(*given, [("moving", "right")], 2)
    mixture, text = scene.mixture, scene.phrases[0]
    target, rest = METHODS["both"](model, mixture, text, **solver)
    raw, _ = apart(model, mixture, text, **solver)
    page = figures.figure(10, 8)
    grid = page.add_gridspec(4, 2)
    for i, (title, wave) in enumerate([("mixture", mixture), (text, target), ("rest", rest)]):
        for c, side in enumerate(("left", "right")):
            axis = page.add_subplot(grid[i, c])
            levels = spectrogram.decibels([wave[c]], wave.shape[1], model.sample_rate)
            extent = (0, options.seconds, 0, model.sample_rate / 2000)
            look = dict(origin="lower", aspect="auto", cmap="magma", vmin=-90, vmax=-20)
            axis.imshow(levels.T, extent=extent, **look)
            axis.set_title(f"{title}, {side}", loc="left", fontsize=10)
            axis.set_ylim(0, 3)
            axis.set_ylabel("kHz")
    axis, heard = page.add_subplot(grid[3, :]), heard_in(scene.target, scene)
    at = (np.arange(len(heard)) + 0.5) * FRAME
    waves = {"the source": scene.target, 'stereo="both"': target, "each channel alone": raw}
    for (name, wave), style in zip(waves.items(), ("k-", "C0-", "C3:"), strict=True):
        axis.plot(at, np.where(heard, differences(wave, scene), np.nan), style, label=name)
    axis.set(xlim=(0, options.seconds), xlabel="seconds", ylabel="left - right, dB")
    axis.set_title(f"level difference of the target, {text}", loc="left", fontsize=10)
    axis.legend()
    figures.save(page, options.picture, dpi=80)


def main(arguments: list[str]) -> None:
    tables = {"methods": methods, "absent": absent, "cases": cases, "picture": picture}
    parser = report.parser(
        __doc__, model="demo", mixtures=96, seed=5, seconds=2.0, method="ab3", steps=8, rows=None
    )
    parser.add_argument("table", choices=tables, help="what is compared")
    parser.add_argument(
        "--picture",
        metavar="PNG",
        default="stereo.png",
        help="drawn by picture, of the last mixture",
    )
    options = parser.parse_args(arguments)
    model = SAMAudio.from_pretrained(options.model)
    tables[options.table](options, model, dict(method=options.method, steps=options.steps))


if __name__ == "__main__":
    report.run(main)
