"""What `python -m mlx_sam_audio.separate` does."""

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from .. import span_predictor
from ..engine import checkpoint, memory
from ..engine.progress import Progress
from ..engine.run import Run
from ..engine.separation import Separation
from ..errors import SAMAudioError, plain
from ..files import existing, make_folder, whole, writable
from ..media import audio, figures, preview, spectrogram
from ..media.video import MaskedVideo
from ..model import SAMAudio
from ..prompts import Span, check_prompt
from . import choice, report
from .options import masked_video, predictor, read, settings_of
from .write import outputs, write, write_text


def main(arguments: list[str]) -> None:
    options = read(arguments)
    if not options.demo:
        separate(options)
    elif arguments != ["--demo"]:
        raise SAMAudioError("--demo makes its own example: it takes no other options")
    else:
        from ..demo import example

        example.run(Path.cwd())


def separate(options: argparse.Namespace) -> None:
    start = time.perf_counter()
    if options.input is None:
        raise SAMAudioError("no input: name a recording with -i, or try --demo")
    seen = masked_video(options)
    if options.pick or options.preview:
        return draw(options, seen)
    settings = settings_of(options)
    spans = check_prompt(options.description, [Span.parse(text) for text in options.span], seen)
    source = existing(options.input)
    paths = outputs(source, options.output, options.rest)
    check_extras(options)

    name, model = load(options)
    loading = time.perf_counter() - start
    if options.spans_only:
        return write_spans(model, options, paths[0])
    if settings.predict_spans and not spans:
        settings = replace(settings, predict_spans=predictor(options))
    with Bar(options.verbose) as bar:
        run = model.prepare(
            source,
            options.description,
            spans=spans,
            video=seen,
            settings=settings,
            progress=bar,
            resume=checkpoint.beside(paths[0]),
            restart=not options.resume,
        )
        shown = not options.no_metrics and os.environ.get("SAM_AUDIO_METRICS") != "0"
        if shown:
            offered = memory.text(memory.offered(settings.max_memory))
            print(f"memory    about {memory.text(run.memory.bytes)} of {offered}")
        if options.verbose:
            say(f"separating {options.description!r} {' '.join(map(str, spans))} from {source}")
        with memory.wired(settings.max_memory):
            write(run, paths)
    facts = run.facts
    if options.keep_candidates:
        keep(facts.candidates, Path(options.keep_candidates))
    if options.spectrogram:
        picture(options, run, paths)
    seconds = {**facts.seconds, "load": loading + facts.seconds["load"]}
    seconds["total"] = time.perf_counter() - start
    values = report.values(options, name, paths, facts, seconds)
    if options.metrics_json:
        write_text(Path(options.metrics_json), json.dumps(values, indent=2) + "\n")
    if shown:
        print(*map(plain, report.table(values)), sep="\n")


def check_extras(options: argparse.Namespace) -> None:
    """What is wanted beside the stems can be written."""
    if options.metrics_json:
        writable(options.metrics_json, [".json"])
    if options.spectrogram:
        writable(options.spectrogram, [".png"])
        figures.figure(1, 1)  # without matplotlib, an error now
    if options.keep_candidates:
        if options.candidates == 1:
            raise SAMAudioError("--keep-candidates needs several of them: give -c too")
        make_folder(Path(options.keep_candidates))


def load(options: argparse.Namespace) -> tuple[str, SAMAudio]:
    """The name of a model, and the model."""
    name = options.model
    if name in (None, "auto"):
        name, reason = choice.largest_that_fits(options.max_memory, options.window)
        say(reason)
    if options.verbose:
        say(f"loading {name}")
    return name, SAMAudio.from_pretrained(name, verify=options.verify)


class Bar:
    """Shows on a terminal how far a run is: the stage, the share of all work, the seconds left."""

    def __init__(self, stays: bool):
        layout = "{desc} {percentage:3.0f}%|{bar}| {postfix}"
        self._bar = tqdm(total=1.0, bar_format=layout, disable=None, leave=stays)

    def __call__(self, now: Progress) -> None:
        left = (
            "" if now.seconds_left is None else f", {tqdm.format_interval(now.seconds_left)} left"
        )
        self._bar.set_description_str(f"{now.stage:6}", refresh=False)
        self._bar.set_postfix_str(f"{now.done}/{now.total}{left}", refresh=False)
        self._bar.update(now.fraction - self._bar.n)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error) -> None:
        self._bar.close()


def write_spans(model: SAMAudio, options: argparse.Namespace, target: Path) -> None:
    """The seconds where the sound is, as JSON and as a label track for Audacity."""
    spans = model.predict_spans(
        options.input,
        options.description,
        predictor(options),
        window=options.window,
        overlap=options.overlap,
        max_memory=options.max_memory,
    )
    name = target.with_name(target.stem.removesuffix(".target") + ".spans.json")
    with whole(name, name.with_suffix(".txt")) as (rows, labels):
        rows.write_text(json.dumps(span_predictor.to_json(spans), indent=2) + "\n")
        labels.write_text(span_predictor.to_labels(spans, options.description))
    say(f"spans     {' '.join(map(str, spans)) or 'none: the sound does not seem to occur'}")
    say(f"wrote {name} and {name.with_suffix('.txt')}")


def keep(candidates: tuple[Separation, ...], folder: Path) -> None:
    """Every candidate, named by its seed."""
    for candidate in candidates:
        names = (folder / f"{candidate.seed}.{stem}.wav" for stem in ("target", "residual"))
        candidate.save(*names)


def picture(options: argparse.Namespace, run: Run, paths: tuple[Path, Path]) -> None:
    """Draw mixture and stems."""
    rate, mixture = run.facts.sample_rate, run.items[0].mixture
    sounds = (mixture.blocks(), *(audio.blocks(path, rate) for path in paths))
    titles = (f"mixture: {Path(str(mixture)).name}", f"target: {options.description}", "residual")
    rows = dict(zip(titles, sounds, strict=True))
    spectrogram.save(options.spectrogram, rows, run.samples, rate, run.facts.spans)


def draw(options: argparse.Namespace, shown: MaskedVideo | None) -> None:
    """The pictures that help to say where the thing is."""
    for path in filter(None, (options.pick, options.preview)):
        if options.mask and os.path.realpath(path) == os.path.realpath(options.mask):
            raise SAMAudioError(f"{path} is the mask itself: choose another name")
        writable(path, [".png"])
    if options.pick:
        preview.contact_sheet(options.video or options.input, options.pick)
        say(f"wrote {options.pick}: read a box off it for --box X0,Y0,X1,Y1")
    if options.preview:
        if shown is None or shown.mask is None:
            raise SAMAudioError("--preview draws a --box or a --mask: give one of them")
        preview.preview(shown, options.preview)
        say(f"wrote {options.preview}")


def say(line: str) -> None:
    print(plain(line))
