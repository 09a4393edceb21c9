"""How long a dataset would take with the published sizes: arithmetic, and this machine's pace."""

from collections.abc import Iterable

from benchmarks import models, report, speed
from mlx_sam_audio import Settings
from mlx_sam_audio.engine.progress import costs
from mlx_sam_audio.engine.windows import Windows
from mlx_sam_audio.models.sam_audio import ModelConfig

CLIP = 2.0  # seconds of sound whose encoding and decoding are timed


def work(config: ModelConfig, seconds: float, settings: Settings) -> dict[str, float]:
    """Multiplications of each stage for a recording of so many seconds."""
    codec = config.codec
    frames = -(-round(seconds * codec.sample_rate) // codec.hop_length)
    size, overlap = frames, 0
    if settings.window is not None and settings.window < seconds:
        rate = codec.sample_rate / codec.hop_length
        size, overlap = round(settings.window * rate), round(settings.overlap * rate)
    windows = Windows.over(frames, size, overlap)
    unit = costs(codec, config.transformer, windows.size)
    count, views = max(settings.rounds), 2 if settings.stereo == "both" else 1
    return {
        "encode": views * frames * unit["encode"],
        "evaluation": views * count * len(windows.starts) * len(settings.plan) * unit["solve"],
        "decode": views * count * len(range(2)[settings.decoded]) * frames * unit["decode"],
    }


def paces() -> dict[str, float]:
    """Multiplications a second of each stage here: small at its true size, random weights."""
    subject, config = speed.Ours("small", "float32", None, CLIP), models.config("small", "float32")
    unit = costs(config.codec, config.transformer, speed.FRAMES)
    frames = CLIP * config.codec.sample_rate / config.codec.hop_length
    done = {
        "encode": frames * unit["encode"],
        "evaluation": unit["solve"],
        "decode": frames * unit["decode"],
    }
    for stage in done:
        subject.seconds(stage)  # warm up
    return {stage: done[stage] / subject.seconds(stage) for stage in done}


def gib(size: str, rounded: str | None) -> float:
    """Of a published size's weights; where some are of few bits, the others are of 16."""
    few = rounded is not None and rounded.isdigit()
    kind = "float16" if few else rounded or "float32"
    return models.weights(models.build(size, kind, int(rounded) if few else None)) / 2**30


def show(recordings: Iterable[tuple[float, Settings]], rounded: str | None = None) -> dict:
    """Prints a line for each size. recordings: how long each separation's is, and its settings;
    rounded: to what weights are."""
    recordings, pace, rows = list(recordings), paces(), {}
    columns = ("weights", "PFLOP", "hours at 1 TFLOP/s", "hours here", "of which the solver")
    report.head("SAM-Audio", *columns)
    for size in models.SIZES:
        config = models.config(size, "float32")
        total = dict.fromkeys(pace, 0.0)
        for seconds, settings in recordings:
            for stage, count in work(config, seconds, settings).items():
                total[stage] += count
        flop = 2 * sum(total.values())
        hours = {stage: total[stage] / pace[stage] / 3600 for stage in pace}
        here = sum(hours.values())
        rows[size] = dict(gib=gib(size, rounded), flop=flop, hours_here=here, hours=hours)
        report.line(
            size,
            f"{rows[size]['gib']:.2f} GiB",
            f"{flop / 1e15:.3g}",
            f"{flop / 1e12 / 3600:.3g}",
            f"{here:.3g}",
            f"{hours['evaluation'] / here:.0%}",
        )
    return rows
