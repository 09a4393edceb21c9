"""What --spans-only writes."""

import json
from pathlib import Path

from .. import span_predictor
from ..files import whole, writable
from ..model import SAMAudio
from .jobs import Job
from .options import predictor


def names(job: Job) -> tuple[Path, Path]:
    """Checked names of JSON and labels."""
    target = job.outputs[0].path
    path = target.with_name(target.stem.removesuffix(".target") + ".spans.json")
    return writable(path, [".json"]), path.with_suffix(".txt")


def write(model: SAMAudio, options, job: Job) -> list[str]:
    """The seconds where the sound is, as JSON and as a label track for Audacity. Returns what is to
    be said."""
    description = job.prompts[0].description
    spans = model.predict_spans(
        job.source.path,
        description,
        predictor(options),
        window=options.window,
        overlap=options.overlap,
        max_memory=options.max_memory,
    )
    name, labels = names(job)
    with whole(name, labels) as (rows, track):
        rows.write_text(json.dumps(span_predictor.to_json(spans), indent=2) + "\n")
        track.write_text(span_predictor.to_labels(spans, description))
    found = " ".join(map(str, spans)) or "none: the sound does not seem to occur"
    return [f"spans     {found}", f"wrote {name} and {labels}"]
