"""What the command tells of a run, in JSON and in words."""

from collections.abc import Sequence

from ..engine import memory
from ..engine.separation import Facts
from ..prompts import Span, clock
from .jobs import Job


def values(job: Job, model: str, facts: Sequence[Facts], seconds: dict[str, float]) -> dict:
    """What JSON gets: of one prompt all in one object; of several what is common, and "stems".
    seconds: of the command's stages, and of all of it."""
    told = {"input": str(job.source)}
    paths = {output.result.label: str(output) for output in job.outputs}
    speed = seconds["total"] * facts[0].sample_rate / facts[0].samples
    rows = [
        {**one.report(), "model": model, "box": prompt.box, "mask": prompt.mask}
        for one, prompt in zip(facts, job.prompts, strict=True)
    ]
    for row in rows:
        row |= {"seconds": seconds, "real_time_factor": speed}
    if len(rows) == 1:
        return {**told, **paths, **rows[0]}
    stems = [{"target": path, **row} for path, row in zip(stem_paths(job), rows, strict=True)]
    others = {label: paths[label] for label in ("rest", "mixture", "result") if label in paths}
    return {**told, **others, "seconds": seconds, "real_time_factor": speed, "stems": stems}


def stem_paths(job: Job) -> list[str | None]:
    """The file of each prompt's target alone, if it is written."""
    found: list[str | None] = []
    for k in range(len(job.prompts)):
        alone = tuple(float(i == k) for i in range(len(job.prompts)))
        paths = [
            str(x.path) for x in job.outputs if x.result.targets == alone and not x.result.rest
        ]
        found.append(paths[0] if paths else None)
    return found


def table(job: Job, values: dict) -> list[str]:
    """The same for people, line by line."""
    stems = values.get("stems", [values])
    lines = [f"{output.result.label[:9]:9} {output}" for output in job.outputs]
    for stem in stems:
        name = f"{stem['description']}: " if len(stems) > 1 else ""
        lines += [f"{title:9} {name}{text}" for title, text in found(stem)]
    first, seconds = stems[0], values["seconds"]
    stages = "  ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
    return [
        *lines,
        f"time      {stages}",
        f"speed     {first['audio_seconds']:.2f} s of audio, "
        f"real-time factor {values['real_time_factor']:.2f}",
        f"memory    peak {memory.text(first['peak_memory_bytes'])}, "
        f"{memory.text(first['estimated_memory_bytes'])} were expected, "
        f"{memory.text(first['active_memory_bytes'])} still in use",
        f"solver    {first['method']}, {counted(first, 'step')}, "
        f"{counted(first, 'evaluation')}, {counted(first, 'window')}, seed {first['seed']}",
        *([f"lacks     {', '.join(first['missing'])}"] if first["missing"] else []),
    ]


def found(values: dict) -> list[tuple[str, str]]:
    """What is to be known of one prompt: titles and words."""
    rows = []
    if values["spans_predicted"]:
        spans = " ".join(f"{sign}{clock(start, end)}" for sign, start, end in values["spans"])
        rows.append(("spans", f"{spans or 'none were found'} (predicted)"))
    if scores := {row["seed"]: row["score"] for row in values["candidates"]}:
        listed = "  ".join(f"{seed}: {score:.2f}" for seed, score in scores.items())
        rows.append(("scores", f"{listed}; seed {values['seed']} is the best of {len(scores)}"))
        (best,) = (r["scores"] for r in values["candidates"] if r["seed"] == values["seed"])
        parts = [f"{name} {score:.2f}" for name, score in best.items() if name != "score"]
        rows += [("best", "  ".join(parts))] if len(parts) > 1 else []
    if values["absent"]:
        times = ", ".join(clock(start, end) for start, end in values["absent"])
        done = "silenced" if values["gate"] else "--gate silences it"
        rows.append(("absent", f"it seems, at {times} ({done})"))
    return rows


def spans_of(spans: Sequence[Span]) -> str:
    return " ".join(f"{span.sign}{clock(span.start, span.end)}" for span in spans)


def counted(values: dict, name: str) -> str:
    count = values[f"{name}s"]
    return f"{count} {name}{'s' * (count != 1)}"
