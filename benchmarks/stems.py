"""Stems of several prompts, on held-out mixtures of three known sources.

python -m benchmarks.stems mono      prompts for all three, for two, and one that is absent
python -m benchmarks.stems stereo    prompts for all three, sources panned over the whole range
"""

import time
from collections.abc import Callable

import numpy as np

from benchmarks import report
from benchmarks.scenes import Scene, gain, judged, scenes, under
from benchmarks.stereo import apart
from mlx_sam_audio import SAMAudio

Stems = tuple[np.ndarray, np.ndarray]  # targets (K, T) or (K, 2, T), and the rest
CASES = ("all three", "two of three", "two, and one that is absent")
POOR = 3.0  # dB


def alone(**extra) -> Callable[..., Stems]:
    """A separation for each prompt; the rest is what they leave."""

    def separate(model: SAMAudio, wave: np.ndarray, texts: list[str], **settings) -> Stems:
        results = [model.separate(wave, text, **extra, **settings) for text in texts]
        targets = np.stack([np.array(result.target) for result in results])
        return targets, wave - targets.sum(0)

    return separate


def alone_apart(model: SAMAudio, wave: np.ndarray, texts: list[str], **settings) -> Stems:
    targets = np.stack([apart(model, wave, text, **settings)[0] for text in texts])
    return targets, wave - targets.sum(0)


def together(**extra) -> Callable[..., Stems]:
    def separate(model: SAMAudio, wave: np.ndarray, texts: list[str], **settings) -> Stems:
        stems = model.stems(wave, texts, **extra, **settings)
        return np.stack([np.array(stem.target) for stem in stems]), np.array(stems.rest)

    return separate


MONO = {
    "each alone": alone(),
    'each alone, residual="share"': alone(residual="share"),
    "stems": together(),
}
STEREO = {
    "each alone, left and right alone": alone_apart,
    'each alone, stereo="both"': alone(stereo="both"),
    'stems, stereo="mid"': together(stereo="mid"),
    'stems, stereo="both"': together(stereo="both"),
}


def timed(
    separate: Callable[..., Stems], *given, **settings
) -> tuple[np.ndarray, np.ndarray, float]:
    start = time.perf_counter()
    targets, rest = separate(*given, **settings)
    return targets, rest, time.perf_counter() - start


def in_mono(model: SAMAudio, scene: Scene, **settings) -> dict[str, dict[str, dict]]:
    """Of each case and method: improvements of the stems and of the rest, and levels, in dB."""
    sources, found = scene.sources[:, 0], {}
    mixture = sources.sum(0)
    for case in CASES:
        count = 3 if case == CASES[0] else 2
        texts = [*scene.phrases[:count], *([scene.absent] if case == CASES[2] else [])]
        left = sources[count:].sum(0)
        found[case] = {}
        for name, separate in MONO.items():
            targets, rest, seconds = timed(separate, model, mixture, texts, **settings)
            found[case][name] = {
                "gains": [gain(targets[k], sources[k], mixture) for k in range(count)],
                "rest": gain(rest, left, mixture) if count < 3 else None,
                "left": under(rest, mixture),
                "absent": under(targets[-1], mixture) if len(texts) > count else None,
                "sum": under(mixture - targets.sum(0) - rest, mixture),
                "seconds": seconds,
            }
    return found


def in_stereo(model: SAMAudio, scene: Scene, **settings) -> dict[str, dict]:
    found, texts = {}, list(scene.phrases)
    for name, separate in STEREO.items():
        targets, rest, seconds = timed(separate, model, scene.mixture, texts, **settings)
        errors = [judged(target, scene, k) for k, target in enumerate(targets)]
        found[name] = {
            "gains": [error["joint"] for error in errors],
            "image": float(np.mean([error["image"] for error in errors])),
            "wander": float(np.mean([error["wander"] for error in errors])),
            "left": under(rest, scene.mixture),
            "sum": under(scene.mixture - targets.sum(0) - rest, scene.mixture),
            "seconds": seconds,
        }
    return found


def common(rows: list[dict], name: str, base: str) -> list[str]:
    """The cells of both tables: mean over a mixture's stems, the same against the base, the worst
    stem, how many are poor, and seconds against the base."""
    own, other = ([np.mean(row[which]["gains"]) for row in rows] for which in (name, base))
    gains = [row[name]["gains"] for row in rows]
    costs = [row[name]["seconds"] / row[base]["seconds"] for row in rows]
    return [
        report.mean(own),
        "0" if name == base else report.mean(np.subtract(own, other), "+.1f"),
        report.mean(map(min, gains)),
        f"{np.mean([g < POOR for row in gains for g in row]):.0%}",
        f"{np.median(costs):.2f}",
    ]


COMMON = ("stems", "against the first", "the worst stem", f"stems under {POOR:g} dB", "cost")


def mono(options, model: SAMAudio, solver: dict) -> None:
    given = options.mixtures, options.seed, options.seconds, model.sample_rate, ("centre",)
    rows = report.each(
        options, list(scenes(*given, 3)), lambda scene: in_mono(model, scene, **solver)
    )
    report.head("prompts for", "method", *COMMON, "rest", "absent stem's level", "what all leave")
    for case in CASES:
        own = [row[case] for row in rows]
        for name in MONO:
            levels = [
                report.mean([row[name][key] for row in own]) for key in ("rest", "absent", "left")
            ]
            report.line(case, name, *common(own, name, next(iter(MONO))), *levels)
    report.write(options, rows)


def stereo(options, model: SAMAudio, solver: dict) -> None:
    given = options.mixtures, options.seed, options.seconds, model.sample_rate
    drawn = list(scenes(*given, number=3))
    rows = report.each(options, drawn, lambda scene: in_stereo(model, scene, **solver))
    report.head("method", *COMMON, "image", "wander", "sum")
    for name in STEREO:
        errors = [report.mean([row[name][key] for row in rows]) for key in ("image", "wander")]
        worst = f"{max(row[name]['sum'] for row in rows):.0f}"
        report.line(name, *common(rows, name, next(iter(STEREO))), *errors, worst)
    report.write(options, rows)


def main(arguments: list[str]) -> None:
    tables = {"mono": mono, "stereo": stereo}
    parser = report.parser(
        __doc__, model="demo", mixtures=96, seed=31, seconds=2.0, method="ab3", steps=8, rows=None
    )
    parser.add_argument("table", choices=tables, help="what is compared")
    options = parser.parse_args(arguments)
    model = SAMAudio.from_pretrained(options.model)
    tables[options.table](options, model, dict(method=options.method, steps=options.steps))


if __name__ == "__main__":
    report.run(main)
