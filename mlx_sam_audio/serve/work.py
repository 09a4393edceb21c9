"""What the worker does with one job: separate, or find spans, and write what there is."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from ..command import report
from ..command.inputs import Source
from ..command.jobs import Job as Reported
from ..command.names import Output, Result
from ..command.prompts import Prompt
from ..command.sounds import Sounds
from ..command.write import write_all, write_text
from ..engine.progress import Progress
from ..errors import note
from ..files import slug
from ..model import SAMAudio
from ..prompts import Span
from ..settings import Settings
from ..span_predictor import to_json
from . import lanes
from .requests import HEARD, SETTINGS, film_of

Tell = Callable[[Progress], object]
Cancel = Callable[[], bool]
Found = Callable[[list[tuple[Span, ...]]], object]


def prompts_of(request: dict) -> list[Prompt]:
    """The prompts of a request that was checked."""
    texts = request.get("descriptions") or [request["description"]]
    spans = request.get("spans") or []
    rows = spans if "descriptions" in request else [spans]
    rows = rows or [[]] * len(texts)
    box = ",".join(map(str, request.get("box") or ())) or None
    return [
        Prompt(text, tuple(Span(*span) for span in row), box)
        for text, row in zip(texts, rows, strict=True)
    ]


def results(prompts: Sequence[Prompt]) -> list[Result]:
    """The mixture, the target of each prompt, and the rest: their labels are the stems' names."""
    count, alone = len(prompts), len(prompts) == 1
    nothing = count * (0.0,)
    found = [Result("mixture", "mixture", nothing, 0.0, 1.0)]
    for k, prompt in enumerate(prompts):
        label = "target" if alone else f"target-{k}"
        row = tuple(float(i == k) for i in range(count))
        found.append(Result(label, slug(prompt.description) or label, row))
    described = alone and slug(prompts[0].description)
    rest = f"without-{described}" if described else "rest"
    return [*found, Result("residual", rest, nothing, 1.0)]


def separate(
    folder: Path,
    request: dict,
    name: str,
    film: Path | None,
    model: SAMAudio,
    tell: Tell,
    cancel: Cancel,
    found: Found,
) -> dict:
    """Write the stems of `folder`/input there. Returns what a job tells of them. found: is told the
    spans of each prompt as soon as they are predicted."""
    source, prompts = folder / "input", prompts_of(request)
    settings = Settings(**{name: request[name] for name in SETTINGS})
    pictures = film_of(film, source, tuple(request["box"])) if request.get("box") else None

    def told(progress: Progress) -> None:
        if any(item.predicted for item in run.items):
            found([tuple(item.spans) for item in run.items])
        tell(progress)

    run = model.prepare_stems(
        source,
        [prompt.description for prompt in prompts],
        spans=[prompt.spans for prompt in prompts],
        videos=[pictures] * len(prompts),
        share=settings.shares,
        settings=settings,
        progress=told,
        cancel=cancel,
    )
    sounds = Sounds(run, model.sample_rate, source, adds=settings.residual != "model")
    made = results(prompts)
    for notice in write_all(sounds, [Output(x, folder / f"{x.label}.wav") for x in made], None):
        note(notice)
    run.watch.advance("write", 1)
    return told_of(folder, request, name, prompts, sounds, made)


def told_of(
    folder: Path,
    request: dict,
    name: str,
    prompts: Sequence[Prompt],
    sounds: Sounds,
    made: Sequence[Result],
) -> dict:
    """What a job tells of its results; the report is written beside them."""
    facts = sounds.run.stem_facts
    seconds = dict(facts[0].seconds)
    seconds["total"] = sum(seconds.values())
    outputs = tuple(Output(result, Path(f"{result.label}.wav")) for result in made)
    job = Reported(Source(folder / "input", name), tuple(prompts), outputs)
    values = report.values(job, request["model"], facts, seconds)
    write_text(folder / "report.json", json.dumps(values, indent=2) + "\n")
    described = ["", *(prompt.description for prompt in prompts), ""]
    stems = {
        result.label: {
            "description": text,
            "slug": result.slug,
            "peak": lanes.outline(folder / f"{result.label}.wav").loudest,
        }
        for result, text in zip(made, described, strict=True)
    }
    several = "descriptions" in request
    spans = [to_json(one.spans) for one in facts]
    absent = [row["absent"] for row in values.get("stems", [values])]
    return {
        "spans": spans if several else spans[0],
        "predicted": any(one.spans_predicted for one in facts),
        "absent": absent if several else absent[0],
        "stems": stems,
        "sample_rate": sounds.rate,
        "channels": sounds.channels,
        "spent": seconds,
        "evaluations": facts[0].evaluations * facts[0].windows,
    }


def spans(
    folder: Path, request: dict, name: str, model: SAMAudio, tell: Tell, cancel: Cancel
) -> dict:
    """Find the seconds of each prompt in `folder`/input. Returns what a job tells of them."""
    options = {name: request[name] for name in HEARD}
    memory = options.pop("max_memory")
    mixture = model.encode(folder / "input", max_memory=memory, progress=tell, cancel=cancel)
    texts = request.get("descriptions") or [request["description"]]
    found = [
        to_json(model.predict_spans(mixture, text, max_memory=memory, cancel=cancel, **options))
        for text in texts
    ]
    several = "descriptions" in request
    values = {"input": name, "model": request["model"], "descriptions": texts, "spans": found}
    write_text(folder / "report.json", json.dumps(values, indent=2) + "\n")
    return {"spans": found if several else found[0], "predicted": True}
