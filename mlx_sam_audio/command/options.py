"""The options of `python -m mlx_sam_audio.separate`, and what they say."""

import argparse
import re
from collections.abc import Callable
from dataclasses import fields
from functools import partial

from .. import ode, span_predictor
from ..engine import memory
from ..errors import SAMAudioError
from ..media.video import MaskedVideo
from ..settings import LONG, Settings
from .terminal import Parser

FLAG = dict(action="store_true")
SECONDS = dict(type=float, default=0.0, metavar="S")


def parser() -> Parser:
    parser = Parser(
        prog="mlx-sam-audio",
        description="Separate the sound you describe from a recording.",
        epilog="Writes the target and the residual (everything else), mono, at the model's rate.",
    )
    parser.set_defaults(**{field.name: field.default for field in fields(Settings)})
    add = parser.add_argument
    add("-i", "--input", metavar="FILE", help="the recording: any audio file")
    add("-o", "--output", metavar="FILE", help="the target, .wav or .flac, or the video with it, "
        ".mp4, .mov or .mkv (INPUT.target.wav here)")  # fmt: skip
    add("--residual", dest="rest", metavar="FILE", help="the rest, likewise (beside the target)")
    add("-m", "--model", help="a converted model: folder, name or hub repo (the largest that fits)")
    add("--demo", **FLAG, help="separate an example with the bundled model, offline")
    prompt(parser.add_argument_group("what is wanted").add_argument)
    solution(parser.add_argument_group("how it is computed").add_argument)
    choice(parser.add_argument_group("which result").add_argument)
    add = parser.add_argument_group("what is told").add_argument
    add("--spectrogram", metavar="PNG", help="draw mixture, target and residual")
    add("--metrics-json", metavar="PATH", help="write the report as JSON")
    add("--no-metrics", **FLAG, help="print no report (or SAM_AUDIO_METRICS=0)")
    add("-v", "--verbose", **FLAG, help="say what is being done")
    return parser


def prompt(add: Callable) -> None:
    add("-d", "--description", default="", help='the sound: "dog barking"')
    add("--span", action="append", default=[], metavar="+START:END",
        help="seconds where it is (+) or is not (-): --span +6.3:7.0; may be repeated")  # fmt: skip
    add("--predict-spans", action=argparse.BooleanOptionalAction,
        help="find the seconds where it is, if no --span says them")  # fmt: skip
    add("--spans-only", **FLAG, help="only find them: write OUTPUT.spans.json, .txt for Audacity")
    add("--span-model", metavar="MODEL", default=span_predictor.NAME, help="(%(default)s)")
    add("--span-threshold", type=float, default=0.3, metavar="P",
        help="how probable the sound must be in a span (%(default)s)")  # fmt: skip
    add("--span-gap", **SECONDS, help="fill pauses of so many seconds")
    add("--span-smallest", **SECONDS, help="drop shorter spans")
    add("--box", metavar="X0,Y0,X1,Y1", help="where the thing is in the pictures")
    add("--mask", metavar="FILE", help="a picture or video, white where it is")
    add("--video", metavar="FILE", help="the pictures, if not the input's; masked unless --box, "
        "--mask")  # fmt: skip
    add("--pick", metavar="PNG", help="draw the pictures with a grid, to find a box, and stop")
    add("--preview", metavar="PNG", help="draw the box or mask, and stop")


def solution(add: Callable) -> None:
    add("--quality", choices=ode.QUALITY, help="8, 16 or 32 steps (balanced)")
    add("--method", choices=ode.METHODS, help="ODE solver (%(default)s)")
    add("--steps", type=int, default=None, help="solver steps, instead of --quality")
    add("--seed", type=int, help="decides noise and watermark (%(default)s)")
    add("--window", type=float, default=LONG, help="seconds seen at once (%(default)g)")
    add("--overlap", type=float, help="seconds that neighbouring windows share (%(default)g)")
    add("--max-memory", metavar="SIZE", type=memory.parse,
        help="cut the work to fit, like 8GB (what the machine has)")  # fmt: skip
    add("--resume", **FLAG, help="go on with an interrupted run of the same output")
    add("--verify", **FLAG, help="compare every byte of the model's files first")


def choice(add: Callable) -> None:
    add("-c", "--candidates", type=candidates, metavar="K",
        help="make so many and keep the best, or auto (%(default)s)")  # fmt: skip
    add("--ranker", help="%(default)s, activity, clap, judge, imagebind, or mixed: clap:5,judge:1")
    add("--keep-candidates", metavar="DIR", help="write all candidates there")
    add("--gate", action="store_true", help="silence where the sound seems to be absent")
    add("--absent", type=float, metavar="DB", help="how far under the mixture it is (%(default)g)")
    add("--subtract", dest="residual", action="store_const", const="subtract",
        help="make the residual as input - target, so that both add up: faster")  # fmt: skip
    add("--no-watermark", dest="watermark", action="store_false", help="decode without the mark")


def read(arguments: list[str]) -> argparse.Namespace:
    # argparse takes "-9:12" for an option, and " -9:12" for a value
    return parser().parse_args([re.sub(r"^-(?=[\d.]+:)", " -", text) for text in arguments])


def candidates(text: str) -> int | str:
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise SAMAudioError(f'--candidates takes a number or "auto", not {text!r}') from None


def settings_of(options: argparse.Namespace) -> Settings:
    """What they say of the separation, but for the predictor of spans."""
    if options.steps is not None and options.quality is not None:
        raise SAMAudioError("--quality and --steps both say how many steps: give one of them")
    named = {field.name: getattr(options, field.name) for field in fields(Settings)}
    steps = ode.QUALITY[options.quality or "balanced"] if options.steps is None else options.steps
    return Settings(**{**named, "steps": steps})


def predictor(options: argparse.Namespace) -> Callable:
    """The span predictor as the options want it."""
    loaded = span_predictor.SpanPredictor.from_pretrained(options.span_model, verify=options.verify)
    return partial(
        loaded,
        threshold=options.span_threshold,
        smallest=options.span_smallest,
        gap=options.span_gap,
    )


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
