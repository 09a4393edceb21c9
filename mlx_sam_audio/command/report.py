"""The report of a run: all that is needed to judge it and to repeat it."""

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import mlx.core as mx

from .. import __version__, ode, span_predictor
from ..engine import memory
from ..engine.longform import Chunk
from ..engine.pipeline import SAMAudio
from ..engine.presence import Presence, absences
from ..engine.separation import Separation
from ..prompts import Span


@dataclass
class Found:
    """What the chunks of a run say beside their sound."""

    samples: int = 0
    spans: tuple[Span, ...] = ()
    presence: list[Presence] = field(default_factory=list)
    candidates: tuple[Separation, ...] = ()

    @property
    def best(self) -> Separation | None:
        return max(self.candidates, key=lambda one: one.score, default=None)

    def look(self, run: Iterator[Chunk]) -> Iterator[Chunk]:
        for chunk in run:
            self.spans, self.candidates = chunk.spans, chunk.candidates
            self.presence += chunk.presence
            self.samples += len(chunk.target)
            yield chunk


def values(
    options: argparse.Namespace,
    name: str,
    paths: tuple[Path, Path],
    model: SAMAudio,
    windows: int,
    estimate: int,
    seconds: dict[str, float],
    found: Found,
) -> dict:
    """What JSON gets. estimate: bytes that were expected."""
    length = found.samples / model.sample_rate
    return {
        "input": str(options.input),
        "target": str(paths[0]),
        "residual": str(paths[1]),
        "model": name,
        "description": options.description,
        "spans": span_predictor.to_json(found.spans),
        "spans_predicted": bool(options.predict_spans and not options.span),
        "video": options.video,
        "box": options.box,
        "mask": options.mask,
        "method": options.method,
        "steps": options.steps,
        "evaluations": len(ode.plan(options.method, options.steps)),
        "windows": windows,
        "window": options.window,
        "overlap": options.overlap,
        "seed": best.seed if (best := found.best) else options.seed,
        "candidates": [
            {"seed": one.seed, "score": one.score, "scores": one.scores} for one in found.candidates
        ],
        "ranker": options.ranker,
        "presence": [asdict(row) for row in found.presence],
        "absent": absences(found.presence),
        "gate": options.gate,
        "watermark": model.config.codec.watermark and not options.no_watermark,
        "residual_by": "subtract" if options.subtract else "model",
        "max_memory": options.max_memory,
        "versions": {"mlx_sam_audio": __version__, "mlx": mx.__version__},
        "sample_rate": model.sample_rate,
        "audio_seconds": length,
        "seconds": seconds,
        "real_time_factor": seconds["total"] / length,
        "estimated_memory_bytes": estimate,
        "peak_memory_bytes": mx.get_peak_memory(),
        "active_memory_bytes": mx.get_active_memory(),
    }


def table(values: dict) -> list[str]:
    """The same for people, line by line."""
    extra = []
    if values["spans_predicted"]:
        spans = " ".join(str(Span(*span)) for span in values["spans"])
        extra.append(f"spans     {spans or 'none were found'} (predicted)")
    if scores := {row["seed"]: row["score"] for row in values["candidates"]}:
        listed = "  ".join(f"{seed}: {score:.2f}" for seed, score in scores.items())
        extra.append(f"scores    {listed}; seed {values['seed']} is the best of {len(scores)}")
        (best,) = (r["scores"] for r in values["candidates"] if r["seed"] == values["seed"])
        parts = [f"{name} {score:.2f}" for name, score in best.items() if name != "score"]
        extra += [f"best      {'  '.join(parts)}"] if len(parts) > 1 else []
    if values["absent"]:
        times = " ".join(f"{start:g}:{end:g}" for start, end in values["absent"])
        done = "silenced" if values["gate"] else "--gate silences it"
        extra.append(f"absent    it seems, at {times} s ({done})")
    stages = "  ".join(f"{name} {value:.2f} s" for name, value in values["seconds"].items())
    return [
        f"target    {values['target']}",
        f"residual  {values['residual']}",
        *extra,
        f"time      {stages}",
        f"speed     {values['audio_seconds']:.2f} s of audio, "
        f"real-time factor {values['real_time_factor']:.2f}",
        f"memory    peak {memory.text(values['peak_memory_bytes'])}, "
        f"{memory.text(values['estimated_memory_bytes'])} were expected, "
        f"{memory.text(values['active_memory_bytes'])} still in use",
        f"solver    {values['method']}, {counted(values, 'step')}, "
        f"{counted(values, 'evaluation')}, {counted(values, 'window')}, seed {values['seed']}",
    ]


def counted(values: dict, name: str) -> str:
    count = values[f"{name}s"]
    return f"{count} {name}{'s' * (count != 1)}"
