"""Does the prompt choose the sound? SI-SDR improvement on held-out mixtures.

python -m benchmarks.quality -m demo
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import soxr

from benchmarks import report
from mlx_sam_audio import SAMAudio, SAMAudioError, Span
from mlx_sam_audio.demo import sounds
from mlx_sam_audio.ranking.metrics import level, si_sdr

BATCH = 8
CASES = {
    "text": "text",
    "text_spans": "text and spans",
    "spans": "spans alone (intermittent sounds)",
    "wrong": "the prompt of another sound",
    "absent": "the prompt of an absent sound",
}


@dataclass(frozen=True)
class Item:
    """One mixture and what is wanted from it, at the model's sample rate."""

    family: str
    target: np.ndarray  # (T,)
    residual: np.ndarray  # (T,)
    spans: tuple[Span, ...]
    intermittent: bool  # its times tell it from each of the others
    phrase: str
    other: str  # a phrase for another sound of the mixture
    absent: str  # a phrase for a sound that is not in it

    @property
    def mixture(self) -> np.ndarray:
        return self.target + self.residual


def phrase(rng: np.random.Generator, family: str) -> str:
    """Any wording, a third of them never seen in training."""
    known = sounds.FAMILIES[family]
    choices = known.heldout if rng.random() < 1 / 3 else known.phrases
    return choices[int(rng.random() * len(choices))]


def mixtures(
    rng: np.random.Generator, count: int, seconds: float, number: int | None = None
) -> Iterator[tuple[sounds.Mixture, int]]:
    """`count` mixtures, and which of their sounds is the target: families take turns."""
    families = list(sounds.FAMILIES)
    for i in range(count):
        wanted, drawn = families[i % len(families)], sounds.mixture(rng, seconds, number)
        while wanted not in drawn.names:
            drawn = sounds.mixture(rng, seconds, number)
        yield drawn, drawn.names.index(wanted)


def items(count: int, seed: int, seconds: float, sample_rate: int) -> list[Item]:
    """`count` held-out mixtures; families take turns as the target."""
    rng, drawn = sounds.heldout_rng(seed), []
    for mixture, index in mixtures(rng, count, seconds):
        sources = np.stack([resample(source, sample_rate) for source in mixture.sources])
        others = [name for i, name in enumerate(mixture.names) if i != index]
        absent = [name for name in sounds.FAMILIES if name not in mixture.names]
        times = sounds.spans(mixture.sources[index])
        drawn.append(
            Item(
                family=mixture.names[index],
                target=sources[index],
                residual=sources.sum(0) - sources[index],
                spans=tuple(Span("+", start, end) for start, end in times),
                intermittent=times_tell(mixture, index),
                phrase=phrase(rng, mixture.names[index]),
                other=phrase(rng, others[0]),
                absent=phrase(rng, absent[int(rng.random() * len(absent))]),
            )
        )
    return drawn


def times_tell(mixture: sounds.Mixture, index: int) -> bool:
    """Whether a source sounds for less than 70 % of the time, and at other times than the others:
    less than 60 % of the time at which either sounds is shared."""
    active = np.stack([sounds.activity(source) for source in mixture.sources])
    target, others = active[index], np.delete(active, index, axis=0)
    shared = (target & others).sum(axis=1) / (target | others).sum(axis=1)
    return bool(target.mean() < 0.7 and shared.max() < 0.6)


def resample(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    if sample_rate == sounds.SAMPLE_RATE:
        return samples
    return soxr.resample(samples, sounds.SAMPLE_RATE, sample_rate)


def prompts(case: str, item: Item) -> tuple[str, tuple[Span, ...]]:
    return {
        "text": (item.phrase, ()),
        "text_spans": (item.phrase, item.spans),
        "spans": ("", item.spans),
        "wrong": (item.other, ()),
        "absent": (item.absent, ()),
    }[case]


def measure(model: SAMAudio, case: str, chosen: list[Item], **options) -> list[dict[str, float]]:
    """One row per item: improvements in dB over the mixture itself, and the target's level."""
    rows = []
    for start in range(0, len(chosen), BATCH):
        batch = chosen[start : start + BATCH]
        descriptions, spans = zip(*(prompts(case, item) for item in batch), strict=True)
        results = model.separate_batch(
            [item.mixture for item in batch], descriptions, spans=spans, seed=start, **options
        )
        for item, result in zip(batch, results, strict=True):
            target, residual = np.array(result.target), np.array(result.residual)
            gain = si_sdr(target, item.target) - si_sdr(item.mixture, item.target)
            rest = si_sdr(residual, item.residual) - si_sdr(item.mixture, item.residual)
            under = level(item.mixture) - level(target)
            rows.append({"sdri": gain, "residual_sdri": rest, "under": under})
    return rows


def summary(rows: list[dict[str, float]]) -> dict[str, float | None]:
    if not rows:
        return {"count": 0}
    gains = np.array([row["sdri"] for row in rows])
    return {
        "sdri_mean": float(gains.mean()),
        "sdri_interval": report.interval(gains),
        "sdri_median": float(np.median(gains)),
        "improved": float((gains > 0).mean()),
        "residual_sdri_mean": float(np.mean([row["residual_sdri"] for row in rows])),
        "under_mixture_db": float(np.mean([row["under"] for row in rows])),
        "count": len(rows),
    }


def evaluate(model: SAMAudio, count: int, seed: int, seconds: float, **options) -> dict:
    drawn = items(count, seed, seconds, model.sample_rate)
    scores, families = {}, {}
    for case in CASES:
        chosen = [item for item in drawn if item.intermittent or case != "spans"]
        rows = measure(model, case, chosen, **options)
        scores[case] = summary(rows)
        if case == "text":
            for item, row in zip(chosen, rows, strict=True):
                families.setdefault(item.family, []).append(row["sdri"])
    return {**scores, "families": {k: float(np.mean(v)) for k, v in families.items()}}


def show(scores: dict) -> None:
    heads = "prompt, mixtures, SI-SDR improvement: mean, median, improved, residual"
    report.head(*heads.split(", "), "target under mixture")
    for case, title in CASES.items():
        s = scores[case]
        if not s["count"]:
            report.line(title, 0, *"-----")
            continue
        half = "" if s["sdri_interval"] is None else f" ± {s['sdri_interval']:.1f}"
        decibels = [s[key] for key in ("sdri_median", "residual_sdri_mean", "under_mixture_db")]
        median, rest, under = (f"{value:.1f} dB" for value in decibels)
        gain = f"{s['sdri_mean']:.1f}{half} dB"
        report.line(title, s["count"], gain, median, f"{s['improved']:.0%}", rest, under)
    print()
    report.head(*scores["families"])
    report.line(*(f"{value:.1f}" for value in scores["families"].values()))


def picture(scores: dict, path: str) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SAMAudioError(
            "pictures need matplotlib: `pip install 'mlx-sam-audio[plot]'`"
        ) from None
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axis = figure.subplots()
    families = sorted(scores["families"].items(), key=lambda pair: -pair[1])
    axis.bar(*zip(*families, strict=True), color="#4c78a8")
    axis.axhline(scores["text"]["sdri_mean"], color="#e45756", label="mean")
    axis.set_ylabel("SI-SDR improvement, dB")
    axis.set_title("text prompt, by sound family", fontsize=10)
    axis.legend()
    figure.savefig(path, dpi=110)


def main(arguments: list[str]) -> None:
    parser = report.parser(
        __doc__, model="demo", mixtures=64, seed=0, seconds=2.0, method="ab3", steps=8
    )
    parser.add_argument("--picture", metavar="PNG", help="draw the improvement by family")
    options = parser.parse_args(arguments)
    model = SAMAudio.from_pretrained(options.model)
    drawn = options.mixtures, options.seed, options.seconds
    scores = evaluate(model, *drawn, method=options.method, steps=options.steps)
    show(scores)
    report.write(options, scores)
    if options.picture:
        picture(scores, options.picture)


if __name__ == "__main__":
    report.run(main)
