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


def parser() -> Parser:
    parser = Parser(
        prog="mlx-sam-audio",
        description="Separate the sound you describe from a recording.",
        epilog="Writes the target and the residual (everything else), mono, at the model's rate.",
    )
    parser.set_defaults(**{field.name: field.default for field in fields(Settings)})
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
    parser.add_argument("--residual", dest="rest", help="the rest, likewise (beside the target)")
    parser.add_argument(
        "-m", "--model", help="a converted model: folder, name or hub repo (the largest that fits)"
    )
    parser.add_argument("--quality", choices=ode.QUALITY, help="8, 16 or 32 steps (balanced)")
    parser.add_argument("--method", choices=ode.METHODS, help="ODE solver (%(default)s)")
    parser.add_argument(
        "--steps", type=int, default=None, help="solver steps, instead of --quality"
    )
    parser.add_argument("--seed", type=int, help="decides noise and watermark (%(default)s)")
    parser.add_argument(
        "--window", type=float, default=LONG, help="seconds the model sees at once (%(default)g)"
    )
    parser.add_argument(
        "--overlap", type=float, help="seconds that neighbouring windows share (%(default)g)"
    )
    parser.add_argument(
        "--verify", action="store_true", help="compare every byte of the model's files first"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with an interrupted run of the same output"
    )
    parser.add_argument(
        "--subtract",
        dest="residual",
        action="store_const",
        const="subtract",
        help="make the residual as input - target: faster, and both add up to the input",
    )
    parser.add_argument(
        "--max-memory",
        metavar="SIZE",
        type=memory.parse,
        help="cut the work to fit, like 8GB (what the machine has)",
    )
    parser.add_argument(
        "-c",
        "--candidates",
        type=candidates,
        metavar="K",
        help="make so many and keep the best, or auto (%(default)s)",
    )
    parser.add_argument(
        "--ranker",
        help="%(default)s, activity, clap, judge, imagebind, or mixed: clap:5,judge:1",
    )
    parser.add_argument("--keep-candidates", metavar="DIR", help="write all candidates there")
    parser.add_argument(
        "--gate", action="store_true", help="silence where the sound seems to be absent"
    )
    parser.add_argument(
        "--no-watermark",
        dest="watermark",
        action="store_false",
        help="decode without the watermark",
    )
    parser.add_argument("--spectrogram", metavar="PNG", help="draw mixture, target and residual")
    parser.add_argument("--metrics-json", metavar="PATH", help="write the report as JSON")
    parser.add_argument(
        "--no-metrics", action="store_true", help="print no report (or SAM_AUDIO_METRICS=0)"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say what is being done")
    return parser


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
