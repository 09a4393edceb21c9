"""What the command tells of a run, in JSON and in words."""

import argparse
from pathlib import Path

from ..engine import memory
from ..engine.separation import Facts
from ..prompts import Span


def values(
    options: argparse.Namespace,
    name: str,
    paths: tuple[Path, Path],
    facts: Facts,
    seconds: dict[str, float],
) -> dict:
    """What JSON gets. seconds: of the command's stages, and of all of it."""
    return {
        "input": str(options.input),
        "target": str(paths[0]),
        "residual": str(paths[1]),
        **facts.report(),
        "model": name,
        **{given: getattr(options, given) for given in ("video", "box", "mask")},
        "seconds": seconds,
        "real_time_factor": seconds["total"] * facts.sample_rate / facts.samples,
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
