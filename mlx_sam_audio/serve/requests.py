"""A job's JSON, checked in full: what is wrong with it is said at once, not when its turn comes."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from .. import ode
from ..engine import progress
from ..engine.run import Run
from ..errors import SAMAudioError, plain, shown
from ..kinds import is_text, is_whole
from ..loading.store import local
from ..loading.strict_json import no_number, unique
from ..media import audio
from ..media.video import MaskedVideo, marked
from ..media.video_files import sound_start
from ..prompts import Span, anchors, check_prompt, check_words
from ..ranking import rank
from ..settings import LONG, Settings
from ..span_predictor import to_json
from .catalogue import Installed
from .refusal import Refusal, invalid

HERE = {"noise", "message"}  # settings that are arrays, which nobody sends
SETTINGS = tuple(field.name for field in fields(Settings) if field.name not in HERE)
FIELDS = ("kind", "input", "model", "description", "descriptions", "spans", "box", "quality")
FIELDS += ("title", *SETTINGS)
HEARD = ("window", "overlap", "max_memory")  # settings of what only looks for spans
MOST_PROMPTS, MOST_SPANS = 32, 1000
MOST_BODY = 2**20  # bytes
LONGEST_TITLE = 200
ADDED = "stereo and several stems add up to the recording without residual: subtract, too"


@dataclass(frozen=True)
class Source:
    """A recording that a job is about. film: where its pictures lie, if there are any; lane: the
    same sound, as one can read it from any sample on."""

    told: dict  # {"file": id} or {"job": id, "stem": name}
    name: str
    path: Path
    lane: Path
    film: Path | None
    size: dict | None  # of its pictures
    sides: str
    samples: int
    sample_rate: int


@dataclass(frozen=True)
class Wanted:
    """A job's request, known to be possible. several: whether it came as `descriptions`."""

    kind: str
    source: Source
    model: str
    descriptions: tuple[str, ...]
    several: bool
    spans: tuple[tuple[Span, ...], ...]
    box: tuple[int, ...] | None
    settings: Settings
    title: str | None
    notes: tuple[str, ...]
    work: float  # in the measure of `engine.progress.costs`
    bytes: int  # of what will be written

    def request(self) -> dict:
        """All that repeats it, as JSON."""
        spans = [to_json(row) for row in self.spans]
        prompt = dict(descriptions=list(self.descriptions), spans=spans)
        if not self.several:
            prompt = dict(description=self.descriptions[0], spans=spans[0])
        given = {name: getattr(self.settings, name) for name in SETTINGS}
        if self.kind == "spans":
            given = {name: given[name] for name in HEARD}
            prompt.pop("spans")
        else:
            prompt["box"] = None if self.box is None else list(self.box)
        return {
            "kind": self.kind,
            "input": self.source.told,
            "model": self.model,
            **prompt,
            **given,
        }


def parse(body: bytes) -> dict:
    """The JSON object of a request."""
    try:
        values = json.loads(
            body.decode(), object_pairs_hook=unique, parse_constant=no_number, parse_float=finite
        )
    except (ValueError, RecursionError) as error:
        raise invalid(f"the body is no JSON: {error}") from None
    if not isinstance(values, dict):
        raise invalid(f"the body is a JSON object, not {shown(values)}")
    return values


def finite(text: str) -> float:
    if math.isfinite(value := float(text)):
        return value
    raise ValueError(f"{text[:60]} is too large a number")


class About:
    """SAMAudioErrors that are raised in the body are about a field."""

    def __init__(self, param: str | None):
        self.param = param

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, SAMAudioError) and not isinstance(error, Refusal):
            raise invalid(str(error), self.param) from None


def title_of(values: dict) -> str | None:
    title = values.get("title")
    if title is not None and (not is_text(title) or len(title) > LONGEST_TITLE):
        text = f"a title is a text of at most {LONGEST_TITLE} characters"
        raise invalid(text, "title")
    return title


def texts(values: dict) -> tuple[tuple[str, ...], bool]:
    """The descriptions, and whether they may be several."""
    several = "descriptions" in values
    if several and "description" in values:
        raise invalid("give a description or descriptions, not both", "description")
    if not several:
        text = values.get("description", "")
        if not is_text(text):
            raise invalid(f"a description is a text, not {shown(text)}", "description")
        return (text,), False
    given = values["descriptions"]
    if not isinstance(given, list) or not 1 <= len(given) <= MOST_PROMPTS:
        text = f"descriptions are a list of 1 to {MOST_PROMPTS} texts, not {shown(given)}"
        raise invalid(text, "descriptions")
    if not all(map(is_text, given)):
        text = f"descriptions are texts, not {shown(given)}"
        raise invalid(text, "descriptions")
    return tuple(given), True


def spans_of(values: dict, prompts: int, several: bool) -> tuple[tuple[Span, ...], ...]:
    """The spans of each prompt."""
    given = [] if values.get("spans") is None else values["spans"]
    rows = given if several else [given]
    if several and given == []:
        rows = [[]] * prompts
    if not isinstance(rows, list) or len(rows) != prompts:
        raise invalid(f"spans are a list for each of {prompts} descriptions", "spans")
    found = []
    for row in rows:
        if not isinstance(row, list) or len(row) > MOST_SPANS:
            text = f"spans are a list of at most {MOST_SPANS}, not {shown(row)}"
            raise invalid(text, "spans")
        for span in row:
            if not isinstance(span, list) or len(span) != 3:
                text = f'a span is ["+" or "-", start, end] in seconds, not {shown(span)}'
                raise invalid(text, "spans")
        with About("spans"):
            found.append(tuple(Span(*span) for span in row))
    return tuple(found)


def settings_of(values: dict, source: Source, several: bool, limit: int | None):
    """The settings, with all that is not given as the command chooses it; and notes."""
    given, notes = {name: values[name] for name in SETTINGS if name in values}, []
    if "quality" in values:
        quality = values["quality"]
        if not is_text(quality) or quality not in ode.QUALITY:
            text = f"quality is {', '.join(ode.QUALITY)}, not {shown(quality)}"
            raise invalid(text, "quality")
        if "steps" in given or given.get("times") is not None:
            text = "quality, steps and times all say how many steps: give one of them"
            raise invalid(text, "quality")
        given["steps"] = ode.QUALITY[quality]
    if given.get("window") is None:
        given["window"] = LONG
    if not isinstance(given.get("predict_spans", False), bool):
        text = f"predict_spans is true or false, not {shown(given['predict_spans'])}"
        raise invalid(text, "predict_spans")
    if "stereo" not in given:
        given["stereo"] = source.sides
        if (source.sides != "mono" or several) and given.get("residual") == "subtract":
            notes.append(ADDED)
            given["residual"] = "share"
    if "residual" not in given:
        added = given["stereo"] != "mono" or several
        chain = "job" in source.told
        given["residual"] = "share" if added else "subtract" if chain else "model"
    try:
        settings = Settings(**given)
    except SAMAudioError as error:
        named = (name for name in given if re.search(rf"\b{name}\b", str(error)))
        raise invalid(str(error), next(named, None)) from None
    if limit is not None and (settings.max_memory is None or settings.max_memory > limit):
        settings = replace(settings, max_memory=limit)
    return settings, notes


def wanted(values: dict, source: Source, model: Installed, limit: int | None) -> Wanted:
    """A request that the model can fulfil. limit: bytes of memory. Raises Refusal."""
    kind = values.get("kind", "separate")
    if kind not in ("separate", "spans"):
        raise invalid(f"kind is separate or spans, not {shown(kind)}", "kind")
    title = title_of(values)
    descriptions, several = texts(values)
    spans = spans_of(values, len(descriptions), several)
    if kind == "spans":
        check_only(values, {*FIELDS} - {*SETTINGS, "spans", "box", "quality"} | {*HEARD})
        values = {**values, "predict_spans": True, "stereo": "mono"}
    many = len(descriptions) > 1
    settings, notes = settings_of(values, source, many, limit)
    box = box_of(values.get("box"), source, many)
    for text, row in zip(descriptions, spans, strict=True):
        with About("descriptions" if several else "description"):
            check_prompt(text, row, box)
    if settings.predict_spans and not all(spans):
        check_predictor(model, descriptions, spans)
    run = planned(model, source, descriptions, spans, box, settings)
    costs = progress.costs(model.config.codec, model.config.transformer, run.windows.size)
    work = sum(cost * run.watch.total(stage) for stage, cost in costs.items())
    stems = 0 if kind == "spans" else len(descriptions) + 2
    written = 4 * stems * run.samples * run.mixtures[0].channels
    if kind == "spans":
        work = costs["encode"] * run.watch.total("encode")
    return Wanted(
        kind, source, model.id, descriptions, several, spans, box, settings, title, tuple(notes),
        work, written,
    )  # fmt: skip


def check_only(values: dict, known: set[str]) -> None:
    for name in values:
        if name not in known:
            text = f"there is no field {shown(name)} in this request"
            raise Refusal(400, "unknown_field", text, plain(name)[:100])


def box_of(given: object, source: Source, many: bool) -> tuple[int, ...] | None:
    """Where in the pictures the thing is."""
    if given is None:
        return None
    if many:
        text = "a box shows one thing: give one description with it"
        raise invalid(text, "box")
    if source.film is None or source.size is None:
        raise invalid("a box lies in pictures: the input is no video", "box")
    if not isinstance(given, list) or not all(map(is_whole, given)):
        text = f"a box is [x0, y0, x1, y1] in pixels, not {shown(given)}"
        raise invalid(text, "box")
    with About("box"):
        video = MaskedVideo(source.film, tuple(given))
        marked(np.broadcast_to(0, (3, source.size["height"], source.size["width"])), video.mask)
    return video.mask


def check_predictor(model: Installed, descriptions: Sequence[str], spans: Sequence) -> None:
    if not model.predicts:
        text = f"no span predictor for the model {model.id} is installed on this server"
        raise Refusal(400, "no_predictor", text, "predict_spans")
    if not all(text.strip() or row for text, row in zip(descriptions, spans, strict=True)):
        text = "spans can only be predicted for a description: it is empty"
        raise invalid(text, "description")


def planned(
    model: Installed,
    source: Source,
    descriptions: Sequence[str],
    spans: Sequence[Sequence[Span]],
    box: tuple[int, ...] | None,
    settings: Settings,
) -> Run:
    """The engine's own plan of the work, for all that it checks."""
    config, ranker = model.config, rank.ranker(settings.ranker)
    if settings.candidates != 1:
        for name in set(ranker.weights) & set(rank.MODELS):
            if local(name) is None:
                text = f"the ranker {name} needs a model that is not installed on this server"
                raise Refusal(400, "no_model", text, "ranker")
        with About("ranker"):
            heard = settings.predict_spans or any(map(rank.wanted, spans))
            ranker.check(bool(heard), box is not None)
    with About("description"):
        for text in descriptions:
            check_words(text, config.vocabulary)
    rate = config.codec.sample_rate
    with About("spans"):
        for row in spans:
            samples = audio.resampled(source.samples, source.sample_rate, rate)
            anchors(row, samples, rate, config.codec.hop_length)
    with About(None if box is None else "box"):
        film = None if box is None else film_of(source.film, source.path, box)
        return model.plan.prepare_stems(
            source.lane,
            descriptions,
            spans=spans,
            videos=[film] * len(descriptions),
            share=settings.shares,
            # those are checked above, without their weights
            settings=replace(settings, predict_spans=False, ranker=rank.DEFAULT),
        )


def film_of(film: Path, sound: Path, box: tuple[int, ...]) -> MaskedVideo:
    """The pictures that belong to a sound, which may have been made of the film's."""
    same = film.samefile(sound)
    return MaskedVideo(film, box, 0.0 if same else sound_start(film))
