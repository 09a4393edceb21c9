"""The constants of the filter that makes shares (`engine.share`): how far its statistics reach, its
exponents, its frames.

python -m benchmarks.shares moving                          targets that stay, and that move
python -m benchmarks.shares anywhere --seconds 2 --seed 5    those of `benchmarks.stereo methods`
"""

from unittest import mock

import mlx.core as mx
import numpy as np

from benchmarks import report
from benchmarks.scenes import ANYWHERE, Scene, gain, scenes
from mlx_sam_audio import SAMAudio
from mlx_sam_audio.engine import share

KINDS = {"moving": ("pan", ("moving", "pan")), "anywhere": ANYWHERE}
VIEWS = {"one channel": [2], "mid": [2], "both": [0, 1]}  # of left, right and their mean
NAMES = ("SECONDS", "WINDOW", "EXPONENTS")
SHIPPED = "as shipped"
WHOLE = 1e3  # seconds
VARIED = {  # title -> what the module's constants are set to
    SHIPPED: {},
    **{f"{s:g} s on either side": {"SECONDS": s} for s in (0.25, 0.5, 1, 2)},
    "the whole": {"SECONDS": WHOLE},
    **{f"exponent {e:g}": {"EXPONENTS": {1: e / 2, 2: e / 2}} for e in (1, 1.5, 2)},
    **{f"frames of {1000 * w:.0f} ms": {"WINDOW": w} for w in (0.032, 0.064, 0.128, 0.256)},
}


def made(wave: np.ndarray, heard: np.ndarray, rate: int, constants: dict) -> np.ndarray:
    """The stems and the rest (K + 1, C, T) of a recording (C, T), as K targets and residuals are
    heard (K, 2, V, T)."""
    with mock.patch.multiple(share, **constants):
        pieces = list(share.shares([(wave, mx.array(heard))], rate, len(wave)))
    return np.concatenate([np.array(piece) for piece in pieces], axis=-1)


def measure(model: SAMAudio, scene: Scene, **solver) -> dict[str, dict[str, float]]:
    """Improvement of SI-SDR in dB, by what is set and by method."""
    found, mean = {title: {} for title in VARIED}, scene.mixture.mean(0)
    results = [model.separate(wave, scene.phrases[0], **solver) for wave in (*scene.mixture, mean)]
    heard = np.stack([[np.array(r.target), np.array(r.residual)] for r in results], axis=1)
    for method, views in VIEWS.items():
        wave, source, known = scene.mixture, scene.target, {}
        if method == "one channel":
            wave, source = mean[None], source.mean(0)[None]
        for title, constants in VARIED.items():
            if method == "one channel" and "SECONDS" in constants:  # has no statistics
                continue
            chosen = {name: constants.get(name, getattr(share, name)) for name in NAMES}
            chosen["SECONDS"] = min(chosen["SECONDS"], wave.shape[1] / scene.sample_rate)
            key = chosen["SECONDS"], chosen["WINDOW"], chosen["EXPONENTS"][len(wave)]
            if key not in known:
                stems = made(wave, heard[None, :, views], scene.sample_rate, chosen)
                known[key] = gain(stems[0], source, wave)
            found[title][method] = known[key]
    return found


def main(arguments: list[str]) -> None:
    parser = report.parser(
        __doc__, model="demo", mixtures=96, seed=17, seconds=8.0, method="ab3", steps=8, rows=None
    )
    parser.add_argument("kind", choices=KINDS, help="of targets")
    options = parser.parse_args(arguments)
    model = SAMAudio.from_pretrained(options.model)
    solver = dict(method=options.method, steps=options.steps)
    given = [options.mixtures, options.seed, options.seconds, model.sample_rate]
    number = 2 if options.kind == "moving" else None
    drawn = list(scenes(*given, KINDS[options.kind], number))
    rows = report.each(options, drawn, lambda scene: measure(model, scene, **solver))
    if options.kind == "anywhere":
        show("anywhere", rows)
    else:
        for kind in dict.fromkeys(scene.kind for scene in drawn):
            show(kind, [r for r, scene in zip(rows, drawn, strict=True) if scene.kind == kind])
    report.write(options, rows)


def show(kind: str, rows: list[dict[str, dict[str, float]]]) -> None:
    report.head(
        kind, *(f"{method}{what}" for method in VIEWS for what in ("", ", paired (median)"))
    )
    for title in VARIED:
        cells = []
        for method in VIEWS:
            pairs = [(r[title][method], r[SHIPPED][method]) for r in rows if method in r[title]]
            cells += [report.mean([own for own, _ in pairs])]
            paired = [own - base for own, base in pairs]
            median = f" ({np.median(paired):+.1f})" if paired else ""
            cells += [report.mean(paired, "+.1f") + median]
        report.line(title, *cells)


if __name__ == "__main__":
    report.run(main)
