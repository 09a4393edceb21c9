"""A page to hear a run by: each item's mixture, estimate, reference and rest, one place in all.

It is one file, which opens from a disk and asks nothing of a network. The sounds lie beside it.
"""

import functools
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
import soundfile

from benchmarks.evaluation.runs import Run, Task
from benchmarks.evaluation.summary import HEADLINES, about, forms, headline, names

TEMPLATE = Path(__file__).with_name("listen.html")
MOST = 200  # rows on a page; of more, the worst and the best
POINTS = 240  # of a waveform
SILENCE = -100.0  # dB of full scale
STEMS = {  # title -> the file, of the item or of the row
    "Mixture": ("item", "mixture"),
    "Estimate": ("row", "target"),
    "Reference": ("item", "reference"),
    "Residual": ("row", "residual"),
    "Codec": ("item", "codec"),
}


def page(run: Run) -> str:
    """The page for RUN/listen.html, of the rows and sounds that the run has now.

    Of more than 200 rows it shows the worst and the best of each prompt, by the headline metric,
    and says so. Failed and missing ones are named.
    """
    done = [row for row in run.rows if row["status"] == "ok"]
    main = headline(done)
    kept = extremes(done, main)
    failed = [row for row in run.rows if row["status"] != "ok"][:MOST]
    shape = functools.lru_cache(maxsize=64)(outline)
    rows = [told(run, row, shape) for row in sorted([*kept, *failed], key=Task.of)]
    there = names(done)
    data = {
        "rows": rows,
        "headline": main,
        "left_out": len(run.rows) - len(rows),
        "metrics": {
            name: {
                "title": about(name).title,
                "unit": about(name).unit,
                "better": about(name).better or 1,
                "digits": int(forms(name)[1]),
                "first": name in HEADLINES or len(there) <= len(HEADLINES),
            }
            for name in there
        },
    }
    identity, dataset = run.meta["identity"], run.meta["dataset"].get("name")
    return filled(
        title=html.escape(f"{dataset}: {identity.get('model')}"),
        run=html.escape(run.name),
        data=json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
    )


def filled(**texts: str) -> str:
    """The template with texts in place of {{names}}; what looks like a name in a text stays."""
    template = TEMPLATE.read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: texts[match[1]], template)


def extremes(rows: Sequence[dict], name: str | None) -> list[dict]:
    """Rows for one page: all, or as many of the worst as of the best of each prompt."""
    if len(rows) <= MOST:
        return list(rows)
    prompts: dict[str, list[dict]] = {}
    for row in rows:
        prompts.setdefault(row["prompt"], []).append(row)
    half, kept = max(1, MOST // len(prompts) // 2), []
    for own in prompts.values():
        better = about(name).better or 1
        own = [row for row in own if row["scores"].get(name) is not None] or own
        own.sort(key=lambda row: (better * (row["scores"].get(name) or 0), Task.of(row)))
        kept += own[:half] + own[max(half, len(own) - half) :]
    return kept


def told(run: Run, row: dict, shape) -> dict:
    """What the page knows of a row."""
    folders = {"item": run.sounds(row["id"]), "row": run.sounds(Task.of(row))}
    stems = []
    for key, (title, (where, name)) in enumerate(STEMS.items(), 1):
        path = folders[where] / f"{name}.wav"
        if path.is_file():
            source = quote(path.relative_to(run.folder).as_posix())
            stems.append({"title": title, "key": str(key), "src": source, **shape(path)})
    keys = ("id", "prompt", "seed", "status", "error", "group", "class", "settings")
    return {
        **{key: row.get(key) for key in keys},
        "description": row.get("description"),
        "seconds": max((stem["seconds"] for stem in stems), default=row.get("duration")),
        "scores": row.get("scores") or {},
        "mixture": row.get("mixture") or {},
        "why": row.get("why") or {},
        "stems": stems,
    }


def outline(path: Path) -> dict:
    """A sound's length in seconds, its RMS level in dB of full scale, and its peaks in 240 parts
    of it: two digits of hexadecimal each, ff being full scale."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    power = float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0
    loud = np.abs(samples).max(1) if len(samples) else np.zeros(1)
    edges = np.unique(np.linspace(0, len(loud), POINTS, endpoint=False).astype(int))
    peaks = np.minimum(np.maximum.reduceat(loud, edges), 1)
    return {
        "seconds": len(samples) / rate,
        "level": round(max(SILENCE, 10 * np.log10(power)), 1) if power else SILENCE,
        "peaks": np.round(255 * peaks).astype(np.uint8).tobytes().hex(),
    }
