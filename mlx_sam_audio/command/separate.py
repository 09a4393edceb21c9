"""What `python -m mlx_sam_audio.separate` does."""

import argparse
import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .. import files, ode, span_predictor
from ..engine import candidates as several
from ..engine import checkpoint, longform, memory
from ..engine.pipeline import SAMAudio
from ..engine.timing import Clock
from ..engine.windows import Windows, window_frames
from ..errors import SAMAudioError, note, plain
from ..files import existing, make_folder, whole, writable
from ..media import audio, figures, preview, spectrogram, video_files
from ..media.video import MaskedVideo
from ..prompts import Span, check_prompt
from ..ranking import rank
from . import choice, report
from .terminal import Parser


def parser() -> Parser:
    parser = Parser(
        prog="mlx-sam-audio",
        description="Separate the sound you describe from a recording.",
        epilog="Writes the target and the residual (everything else), mono, at the model's rate.",
    )
    parser.add_argument("-i", "--input", help="the recording: any audio file")
    parser.add_argument(
        "--demo", action="store_true", help="separate an example with the bundled model, offline"
    )
    parser.add_argument("-d", "--description", default="", help='the sound: "dog barking"')
    parser.add_argument(
        "--span",
        action="append",
        default=[],
        metavar="+START:END",
        help="seconds where the sound is (+) or is not (-): --span +6.3:7.0; may be repeated",
    )
    parser.add_argument(
        "--predict-spans",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="find the seconds where the sound is, if no --span says them",
    )
    parser.add_argument(
        "--spans-only",
        action="store_true",
        help="only find them: write OUTPUT.spans.json, and .txt for Audacity",
    )
    parser.add_argument(
        "--span-model", metavar="MODEL", default=span_predictor.NAME, help="(%(default)s)"
    )
    parser.add_argument(
        "--span-threshold",
        type=float,
        default=0.3,
        metavar="P",
        help="how probable the sound must be in a span (%(default)s)",
    )
    parser.add_argument(
        "--span-gap", type=float, default=0.0, metavar="S", help="fill pauses of so many seconds"
    )
    parser.add_argument(
        "--span-smallest", type=float, default=0.0, metavar="S", help="drop shorter spans"
    )
    parser.add_argument("--box", metavar="X0,Y0,X1,Y1", help="where the thing is in the pictures")
    parser.add_argument("--mask", metavar="FILE", help="a picture or video, white where it is")
    parser.add_argument(
        "--video",
        metavar="FILE",
        help="the pictures, if not the input's; masked unless --box, --mask",
    )
    parser.add_argument(
        "--pick", metavar="PNG", help="draw the pictures with a grid, to find a box, and stop"
    )
    parser.add_argument("--preview", metavar="PNG", help="draw the box or mask, and stop")
    parser.add_argument(
        "-o",
        "--output",
        help="the target, .wav or .flac, or the video with it, .mp4, .mov or .mkv "
        "(INPUT.target.wav here)",
    )
    parser.add_argument("--residual", help="the rest, likewise (beside the target)")
    parser.add_argument(
        "-m", "--model", help="a converted model: folder, name or hub repo (the largest that fits)"
    )
    parser.add_argument("--quality", choices=ode.QUALITY, help="8, 16 or 32 steps (balanced)")
    parser.add_argument("--method", choices=ode.METHODS, default="ab3", help="ODE solver (ab3)")
    parser.add_argument("--steps", type=int, help="solver steps, instead of --quality")
    parser.add_argument("--seed", type=int, default=0, help="decides noise and watermark (0)")
    parser.add_argument(
        "--window", type=float, default=10.0, help="seconds the model sees at once (10)"
    )
    parser.add_argument(
        "--overlap", type=float, default=3.0, help="seconds that neighbouring windows share (3)"
    )
    parser.add_argument(
        "--verify", action="store_true", help="compare every byte of the model's files first"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with an interrupted run of the same output"
    )
    parser.add_argument(
        "--subtract",
        action="store_true",
        help="make the residual as input - target: faster, and both add up to the input",
    )
    parser.add_argument(
        "--max-memory", metavar="SIZE", help="cut the work to fit, like 8GB (what the machine has)"
    )
    parser.add_argument(
        "-c",
        "--candidates",
        default="1",
        metavar="K",
        help="make so many and keep the best, or auto (%(default)s)",
    )
    parser.add_argument(
        "--ranker",
        default=rank.DEFAULT,
        help="%(default)s, activity, clap, judge, imagebind, or mixed: clap:5,judge:1",
    )
    parser.add_argument("--keep-candidates", metavar="DIR", help="write all candidates there")
    parser.add_argument(
        "--gate", action="store_true", help="silence where the sound seems to be absent"
    )
    parser.add_argument("--no-watermark", action="store_true", help="decode without the watermark")
    parser.add_argument("--spectrogram", metavar="PNG", help="draw mixture, target and residual")
    parser.add_argument("--metrics-json", metavar="PATH", help="write the report as JSON")
    parser.add_argument(
        "--no-metrics", action="store_true", help="print no report (or SAM_AUDIO_METRICS=0)"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say what is being done")
    return parser


def outputs(source: Path, target: str | None, residual: str | None) -> tuple[Path, Path]:
    """The checked names of both files."""
    kinds = (*audio.SUBTYPES, *video_files.WRITTEN)
    target = writable(target or f"{source.stem}.target.wav", kinds)
    if residual is None:
        residual = target.with_name(
            f"{target.stem.removesuffix('.target')}.residual{target.suffix}"
        )
    paths = target, writable(residual, kinds)
    if any(path.suffix.lower() in video_files.WRITTEN for path in paths):
        video_files.duration(source)  # it must have pictures to copy
    over = any(path.exists() and path.samefile(source) for path in paths)
    if over or os.path.realpath(paths[0]) == os.path.realpath(paths[1]):
        raise SAMAudioError("input, output and residual must be three different files")
    return paths


def masked_video(options: argparse.Namespace) -> MaskedVideo | None:
    """What the options show of the sound."""
    if options.box and options.mask:
        raise SAMAudioError("--box and --mask say the same: give one of them")
    if not (options.box or options.mask or options.video):
        return None
    mask = options.mask
    if options.box:
        try:
            mask = tuple(map(int, options.box.split(",")))
        except ValueError:
            raise SAMAudioError(f"cannot read the box {options.box!r}: write X0,Y0,X1,Y1") from None
    return MaskedVideo(options.video or options.input, mask)


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


def progress_bar(verbose: bool) -> Callable[[int, int], None]:
    bar = tqdm(desc="solving", unit="eval", disable=None, leave=verbose)

    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return show


def windows_of(model: SAMAudio, samples: int, options) -> Windows:
    size, overlap = window_frames(model, options.window, options.overlap)
    return Windows.over(-(-samples // model.hop_length), size, overlap)


def separate(options: argparse.Namespace) -> None:
    start = time.perf_counter()
    if options.input is None:
        raise SAMAudioError("no input: name a recording with -i, or try --demo")
    seen = masked_video(options)
    if options.pick or options.preview:
        draw(options, seen)
        return
    if options.steps is not None and options.quality is not None:
        raise SAMAudioError("--quality and --steps both say how many steps: give one of them")
    if options.steps is None:
        options.steps = ode.QUALITY[options.quality or "balanced"]
    ode.plan(options.method, options.steps)
    limit = memory.parse(options.max_memory) if options.max_memory else None
    if options.candidates != "auto":
        options.candidates = whole_number(options.candidates)
    several.rounds(options.candidates)
    ranker = rank.ranker(options.ranker)
    spans = check_prompt(options.description, [Span.parse(text) for text in options.span], seen)
    source = Path(options.input)
    existing(source)
    paths = outputs(source, options.output, options.residual)
    if options.metrics_json:
        writable(options.metrics_json, [".json"])
    if options.spectrogram:
        writable(options.spectrogram, [".png"])
        figures.figure(1, 1)  # without matplotlib, an error now
    if options.keep_candidates:
        if options.candidates == 1:
            raise SAMAudioError("--keep-candidates needs several of them: give -c too")
        make_folder(Path(options.keep_candidates))

    name = options.model
    if name in (None, "auto"):
        name, reason = choice.largest_that_fits(limit, options.window)
        say(reason)
    tell = say if options.verbose else lambda *_: None
    tell(f"loading {name}")
    model = SAMAudio.from_pretrained(name, verify=options.verify)
    clock = Clock({"load": time.perf_counter() - start})
    if options.spans_only:
        return write_spans(model, predictor(options), source, options, paths[0], limit)
    settings = model.long_options(
        options.description,
        options.steps,
        spans=spans,
        video=seen,
        predict_spans=predictor(options) if options.predict_spans and not spans else False,
        gate=options.gate,
        window=options.window,
        overlap=options.overlap,
        method=options.method,
        times=None,
        seed=options.seed,
        noise=None,
        message=None,
        watermark=not options.no_watermark,
        residual="subtract" if options.subtract else "model",
        max_memory=limit,
        progress=progress_bar(options.verbose),
        cancel=None,
        candidates=options.candidates,
        ranker=options.ranker,
    )
    length = audio.length(source, model.sample_rate) or 0
    windows = windows_of(model, length or round(options.window * model.sample_rate), options)
    at_once = range(1, max(len(windows.starts), *several.rounds(options.candidates)))
    beside = model.beside(
        [seen], settings.predict_spans, ranker if options.candidates != 1 else None
    )
    pieces = model.pieces(windows.frames, at_once, windows.size, limit, beside)
    shown = not options.no_metrics and os.environ.get("SAM_AUDIO_METRICS") != "0"
    if shown:
        offered = memory.text(memory.offered(limit))
        print(f"memory    about {memory.text(pieces.bytes)} of {offered}")
    tell(f"separating {options.description!r} {' '.join(map(str, spans))} from {source}")
    recording = audio.Recording(source, model.sample_rate)
    state = checkpoint.beside(paths[0])
    run = longform.separate(
        model, recording, options.description, settings, saved=(state, options.resume), clock=clock
    )
    found = report.Found()
    try:
        with memory.wired(limit):
            write(found.look(run), recording, paths, model, length)
    except KeyboardInterrupt as stop:
        more = "; --resume goes on" if os.path.lexists(state) else ""
        stop.args = (f"no output was written{more}",)
        raise
    state.unlink(missing_ok=True)
    if options.keep_candidates:
        keep(found.candidates, Path(options.keep_candidates))

    if options.spectrogram:
        titles = (f"mixture: {source.name}", f"target: {options.description}", "residual")
        written = (audio.blocks(path, model.sample_rate) for path in paths)
        rows = dict(zip(titles, (recording, *written), strict=True))
        spectrogram.save(options.spectrogram, rows, found.samples, model.sample_rate, found.spans)
    seconds = {**clock.laps, "total": time.perf_counter() - start}
    windows = len(windows_of(model, found.samples, options).starts)
    settled = options, name, paths, model, windows, pieces.bytes
    values = report.values(*settled, seconds, found)
    if options.metrics_json:
        write_text(Path(options.metrics_json), json.dumps(values, indent=2) + "\n")
    if shown:
        for line in report.table(values):
            say(line)


def say(line: str) -> None:
    print(plain(line))


def whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise SAMAudioError(f'--candidates takes a number or "auto", not {text!r}') from None


def predictor(options: argparse.Namespace) -> Callable:
    """The span predictor as the options want it."""
    loaded = span_predictor.SpanPredictor.from_pretrained(options.span_model, verify=options.verify)
    return partial(
        loaded,
        threshold=options.span_threshold,
        smallest=options.span_smallest,
        gap=options.span_gap,
    )


def write_spans(
    model: SAMAudio, predict: Callable, source: Path, options, target: Path, limit: int | None
) -> None:
    """The seconds where the sound is, as JSON and as a label track for Audacity."""
    lengths = dict(window=options.window, overlap=options.overlap, max_memory=limit)
    spans = model.predict_spans(source, options.description, predict, **lengths)
    name = target.with_name(target.stem.removesuffix(".target") + ".spans.json")
    with whole(name, name.with_suffix(".txt")) as (rows, labels):
        rows.write_text(json.dumps(span_predictor.to_json(spans), indent=2) + "\n")
        labels.write_text(span_predictor.to_labels(spans, options.description))
    say(f"spans     {' '.join(map(str, spans)) or 'none: the sound does not seem to occur'}")
    say(f"wrote {name} and {name.with_suffix('.txt')}")


def keep(candidates: tuple, folder: Path) -> None:
    """Every candidate, named by its seed."""
    for candidate in candidates:
        names = (folder / f"{candidate.seed}.{stem}.wav" for stem in ("target", "residual"))
        candidate.save(*names)


def write(run: Iterator[longform.Chunk], recording, paths, model, samples: int) -> None:
    """Write both stems as they come; they get their names together, when both are complete."""
    with whole(*paths) as parts, contextlib.ExitStack() as stack:
        films = [path.suffix.lower() in video_files.WRITTEN for path in paths]
        # the sound of a film is a wav until it is complete
        waves = [stack.enter_context(spare(path)) if film else part
                 for film, part, path in zip(films, parts, paths, strict=True)]  # fmt: skip
        writers = []
        for wave, path in zip(waves, paths, strict=True):
            writers.append(audio.Writer(wave, path, model.sample_rate, samples))
            stack.callback(writers[-1].discard)
        for chunk in run:
            for writer, stem in zip(writers, (chunk.target, chunk.residual), strict=True):
                writer.write(np.array(stem))
        for writer in writers:
            writer.close()
        notices = []
        for film, writer, wave, part, path in zip(films, writers, waves, parts, paths, strict=True):
            if film:
                sound = audio.blocks(wave, model.sample_rate)
                recording.check()  # its pictures go with the sound that was separated
                notices += video_files.write(
                    recording, sound, model.sample_rate, part, path, writer.peak
                )
            elif writer.notice:
                notices.append(writer.notice)
    for notice in notices:
        note(notice)


@contextlib.contextmanager
def spare(path: Path) -> Iterator[Path]:
    """A name beside `path` for a file that is needed for a while."""
    name = files.part(path)
    try:
        yield name
    finally:
        files.remove(name)


def write_text(path: Path, text: str) -> None:
    with whole(path) as (part,):
        part.write_text(text)


def run(arguments: list[str]) -> None:
    # argparse takes "-9:12" for an option, and " -9:12" for a value
    options = parser().parse_args([re.sub(r"^-(?=[\d.]+:)", " -", text) for text in arguments])
    if options.demo:
        if arguments != ["--demo"]:
            raise SAMAudioError("--demo makes its own example: it takes no other options")
        from ..demo import example

        example.run(Path.cwd())
    else:
        separate(options)
