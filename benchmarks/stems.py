"""Stems of several prompts, on held-out mixtures of three known sources.

python -m benchmarks.stems mono      prompts for all three, for two, and one that is absent
python -m benchmarks.stems stereo    prompts for all three, sources panned over the whole range
python -m benchmarks.stems exponents of the odds, in mono
"""

import time
from collections.abc import Sequence
from functools import partial

import numpy as np

from benchmarks import report, shares, stereo
from benchmarks.scenes import Scene, gain, judged, scenes, under
from mlx_sam_audio import SAMAudio

Stems = tuple[np.ndarray, np.ndarray, float]  # targets (K, T) or (K, 2, T), the rest, seconds
CASES = {  # which of the three phrases, and of the absent one
    "all three": [0, 1, 2],
    "two of three": [0, 1],
    "two, and one that is absent": [0, 1, 3],
}
ALONE = {"each alone": {}, 'each alone, residual="share"': {"residual": "share"}}
METHODS = (*ALONE, "in turn, from the rest", "stems")
EXPONENTS = (1, 1.5, 2)  # of magnitudes
POOR = 3.0  # dB


def together(model: SAMAudio, wave: np.ndarray, texts: Sequence[str], **settings) -> Stems:
    start = time.perf_counter()
    stems = model.stems(wave, list(texts), **settings)
    targets = np.stack([np.array(stem.target) for stem in stems])
    return targets, np.array(stems.rest), time.perf_counter() - start


def chained(model: SAMAudio, wave: np.ndarray, texts: Sequence[str], **settings) -> Stems:
    """Each prompt from the residual of the one before."""
    start, targets = time.perf_counter(), []
    for text in texts:
        result = model.separate(wave, text, **settings)
        wave = np.array(result.residual)
        targets.append(np.array(result.target))
    return np.stack(targets), wave, time.perf_counter() - start


def in_mono(model: SAMAudio, scene: Scene, **settings) -> dict[str, dict[str, dict]]:
    """Of each case and method: improvements of the stems and of the rest, and levels, in dB."""
    sources, texts = scene.sources[:, 0], (*scene.phrases, scene.absent)
    mixture = sources.sum(0)
    alone = {name: [] for name in ALONE}
    for name, extra in ALONE.items():
        for text in texts:
            start = time.perf_counter()
            target = np.array(model.separate(mixture, text, **extra, **settings).target)
            alone[name].append((target, time.perf_counter() - start))
    found = {}
    for case, chosen in CASES.items():
        made = {}
        for name, each in alone.items():
            targets = np.stack([each[k][0] for k in chosen])
            made[name] = targets, mixture - targets.sum(0), sum(each[k][1] for k in chosen)
        for name, separate in zip(METHODS[2:], (chained, together), strict=True):
            made[name] = separate(model, mixture, [texts[k] for k in chosen], **settings)
        there = [k for k in chosen if k < len(sources)]
        left = sources.sum(0) - sources[there].sum(0)
        found[case] = {
            name: {
                "gains": [gain(targets[k], sources[k], mixture) for k in there],
                "rest": gain(rest, left, mixture) if len(there) < 3 else None,
                "left": under(rest, mixture),
                "absent": under(targets[-1], mixture) if len(there) < len(chosen) else None,
                "seconds": seconds,
            }
            for name, (targets, rest, seconds) in made.items()
        }
    return found


def apart(model: SAMAudio, wave: np.ndarray, texts: Sequence[str], **settings) -> Stems:
    """Each prompt and each channel alone."""
    start = time.perf_counter()
    made = [stereo.apart(model, wave, text, **settings)[0] for text in texts]
    return np.stack(made), wave - sum(made), time.perf_counter() - start


STEREO = {
    "each prompt, left and right, each alone": apart,
    'stems, stereo="mid"': partial(together, stereo="mid"),
    'stems, stereo="both"': partial(together, stereo="both"),
}


def in_stereo(model: SAMAudio, scene: Scene, **settings) -> dict[str, dict]:
    found, texts = {}, list(scene.phrases)
    for name, separate in STEREO.items():
        targets, rest, seconds = separate(model, scene.mixture, texts, **settings)
        errors = [judged(target, scene, k) for k, target in enumerate(targets)]
        found[name] = {
            "gains": [error["joint"] for error in errors],
            "image": float(np.mean([error["image"] for error in errors])),
            "wander": float(np.mean([error["wander"] for error in errors])),
            "left": under(rest, scene.mixture),
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


def show_mono(options, model: SAMAudio, solver: dict) -> None:
    given = options.mixtures, options.seed, options.seconds, model.sample_rate, ("centre",)
    rows = report.each(
        options, list(scenes(*given, 3)), lambda scene: in_mono(model, scene, **solver)
    )
    report.head("prompts for", "method", *COMMON, "rest", "absent stem's level", "what all leave")
    for case in CASES:
        own = [row[case] for row in rows]
        for name in METHODS:
            levels = [
                report.mean([row[name][key] for row in own]) for key in ("rest", "absent", "left")
            ]
            report.line(case, name, *common(own, name, METHODS[0]), *levels)
    report.write(options, rows)


def show_stereo(options, model: SAMAudio, solver: dict) -> None:
    given = options.mixtures, options.seed, options.seconds, model.sample_rate
    drawn = list(scenes(*given, number=3))
    rows = report.each(options, drawn, lambda scene: in_stereo(model, scene, **solver))
    report.head("method", *COMMON, "image", "wander", "what all leave")
    for name in STEREO:
        keys = ("image", "wander", "left")
        errors = [report.mean([row[name][key] for row in rows]) for key in keys]
        report.line(name, *common(rows, name, next(iter(STEREO))), *errors)
    report.write(options, rows)


def by_exponent(model: SAMAudio, scene: Scene, **settings) -> dict[str, dict[str, dict]]:
    """As `in_mono`, of shares by exponents."""
    sources, texts = scene.sources[:, 0], [*scene.phrases, scene.absent]
    mixture, found = sources.sum(0), {}
    results = model.stems(mixture, texts, share=False, **settings)
    heard = np.array([[[np.array(r.target)], [np.array(r.residual)]] for r in results])
    for case, chosen in {**CASES, "one of three": [0]}.items():
        there = [k for k in chosen if k < len(sources)]
        left, found[case] = sources.sum(0) - sources[there].sum(0), {}
        for exponent in EXPONENTS:
            constants = {"EXPONENTS": {1: exponent / 2}}
            stems = shares.made(mixture[None], heard[chosen], scene.sample_rate, constants)[:, 0]
            found[case][f"exponent {exponent:g}"] = {
                "gains": [gain(stems[k], sources[k], mixture) for k in there],
                "rest": gain(stems[-1], left, mixture) if len(there) < 3 else None,
                "absent": under(stems[-2], mixture) if len(there) < len(chosen) else None,
            }
    return found


def show_exponents(options, model: SAMAudio, solver: dict) -> None:
    given = options.mixtures, options.seed, options.seconds, model.sample_rate, ("centre",)
    drawn = list(scenes(*given, 3))
    rows = report.each(options, drawn, lambda scene: by_exponent(model, scene, **solver))
    report.head(
        "prompts for", "", "stems", "against the first (median)", "rest", "absent stem's level"
    )
    for case, names in rows[0].items():
        for name in names:
            own = [row[case][name] for row in rows]
            gains = [float(np.mean(row["gains"])) for row in own]
            base = [np.mean(row[case][next(iter(names))]["gains"]) for row in rows]
            paired = np.subtract(gains, base)
            paired = f"{report.mean(paired, '+.1f')} ({np.median(paired):+.1f})"
            levels = [report.mean([row[key] for row in own]) for key in ("rest", "absent")]
            report.line(case, name, report.mean(gains), paired, *levels)
    report.write(options, rows)


def main(arguments: list[str]) -> None:
    tables = {"mono": show_mono, "stereo": show_stereo, "exponents": show_exponents}
    parser = report.parser(
        __doc__, model="demo", mixtures=96, seed=31, seconds=2.0, method="ab3", steps=8, rows=None
    )
    parser.add_argument("table", choices=tables, help="what is compared")
    options = parser.parse_args(arguments)
    model = SAMAudio.from_pretrained(options.model)
    tables[options.table](options, model, dict(method=options.method, steps=options.steps))


if __name__ == "__main__":
    report.run(main)
