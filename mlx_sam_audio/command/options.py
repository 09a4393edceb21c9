"""The options of `mlx-sam-audio`, and what they say."""

import argparse
import os
import re
import threading
from collections.abc import Callable
from dataclasses import fields
from functools import partial

from .. import __version__, ode, span_predictor
from ..engine import memory
from ..errors import SAMAudioError
from ..settings import LONG, Settings
from . import names, prompts
from .terminal import Parser

FLAG = dict(action="store_true")
SECONDS = dict(type=float, default=0.0, metavar="S")
EXAMPLES = """examples:
  mlx-sam-audio mix.wav -d "dog barking" -o dog.wav
  mlx-sam-audio song.flac -d vocals -d drums -d bass -o stems/ --format flac --rate input
  mlx-sam-audio recordings/ --remove "a siren" -o clean/
"""


class Asked(argparse.Action):
    """Keeps prompts, and what belongs to each of them, in their order."""

    def __call__(self, parser, namespace, value, option=None):
        namespace.asked = [*namespace.asked, (self.dest, value)]


class FilesAnywhere(Parser):
    """Names of files may stand anywhere among the options."""

    def parse_known_args(self, args=None, namespace=None):
        options, others = super().parse_known_args(args, namespace)
        options.inputs = [*options.inputs, *(x for x in others if is_name(x))]
        return options, [x for x in others if not is_name(x)]


def is_name(argument: str) -> bool:
    return argument == "-" or not argument.startswith("-")


def parser() -> Parser:
    parser = FilesAnywhere(
        prog="mlx-sam-audio",
        usage="mlx-sam-audio [options] FILE ... -d PROMPT",
        description="Separate the sound you describe from recordings.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    settings = {field.name: field.default for field in fields(Settings)}
    parser.set_defaults(asked=[], **settings)
    read_and_written(parser.add_argument_group("what is read and written").add_argument)
    prompt(parser.add_argument_group("what is wanted").add_argument)
    stems(parser.add_argument_group("which sounds are made of it"))
    found_spans(parser.add_argument_group("seconds that are found").add_argument)
    video(parser.add_argument_group("a video").add_argument)
    model(parser.add_argument_group("the model").add_argument)
    solution(parser.add_argument_group("how it is computed").add_argument)
    choice(parser.add_argument_group("which result").add_argument)
    told(parser.add_argument_group("what is told").add_argument)
    return parser


def read_and_written(add: Callable) -> None:
    add("inputs", nargs="*", action="extend", default=[], metavar="FILE",
        help="recordings: sound or video files, folders of them, - for stdin")  # fmt: skip
    add("-i", "--input", dest="inputs", nargs="+", action="extend", metavar="FILE", help="the same")
    add("-r", "--recursive", **FLAG, help="folders with all that lies below them")
    add("--jobs", type=home, metavar="CSV", help="a table of recordings, each with its prompts")
    add("-o", "--output", type=home, metavar="PLACE",
        help="a folder; for one recording a file: .wav, .flac, .mp3, .m4a, .ogg, .aiff, or the "
        "video with the new sound, .mp4, .m4v, .mov, .mkv; - for stdout (the current folder)",
    )  # fmt: skip
    add("--residual", dest="rest", type=home, metavar="FILE",
        help="the rest, likewise (beside the target)")  # fmt: skip
    add("--name", default=names.TEMPLATE, metavar="TEMPLATE",
        help="names of results in a folder, of {name}, {prompt}, {ext}, {index}, {seed} and "
        "{model} (%(default)s)")  # fmt: skip
    add("--format", choices=names.FORMATS, help="of results in a folder (wav)")
    add("--bits", type=int, choices=(16, 24, 32),
        help="of a sample (32 in wav, which are floats; 24 in flac and aiff)")  # fmt: skip
    add("--rate", metavar="HZ", help="sample rate, or input for the recording's (the model's)")
    add(
        "--overwrite", **FLAG, help="of many recordings, make again what is done, and replace files"
    )
    add("--lease", type=seconds, default=600.0, metavar="S",
        help="under mlx.launch, seconds without progress after which another process is thought "
        "to be gone (%(default)g)")  # fmt: skip


def prompt(add: Callable) -> None:
    asked = dict(action=Asked, default=argparse.SUPPRESS)
    add("-d", "--description", **asked, help='the sound: "dog barking"; several make stems and '
        "the rest, which add up to the recording")  # fmt: skip
    add("--remove", **asked, metavar="DESCRIPTION", help="the recording without that sound")
    add("--keep", **asked, metavar="DESCRIPTION", help="that sound, over a --bed of the rest")
    add("--preset", **asked, metavar="NAME",
        help=f"prompts of a text file, one a line: {', '.join(sorted(prompts.presets()))}, or "
        "NAME.txt of your own")  # fmt: skip
    add("--span", **asked, metavar="+START-END",
        help="times where the last -d is (+) or is not (-): +1:23-1:31, +6.3:7.0 in seconds",
    )  # fmt: skip
    add("--labels", type=home, metavar="FILE", help="a label track of Audacity, as spans")


def stems(group) -> None:
    add = group.add_argument
    add("--only", choices=("target", "residual"), help="write one of them")
    add("--mix", **FLAG, help="write the recording, too, as the stems are written")
    add("--bed", type=decibels, metavar="DB",
        help="with --keep, how loud the rest stays, -12dB; with --remove, the sound (silent)",
    )  # fmt: skip
    add = group.add_mutually_exclusive_group().add_argument
    add("--stereo", dest="sides", choices=("mid", "both"),
        help="of a stereo recording, solve the mid or both channels (both)")  # fmt: skip
    add("--mono", dest="sides", action="store_const", const="mono", help="one channel, whatever "
        "the recording has")  # fmt: skip
    add = group.add_mutually_exclusive_group().add_argument
    add("--faithful", dest="residual", action="store_const", const="share",
        help="stems are shares of the recording: nothing in them that is not in it")  # fmt: skip
    add("--subtract", dest="residual", action="store_const", const="subtract",
        help="make the residual as input - target, so that both add up: faster")  # fmt: skip


def found_spans(add: Callable) -> None:
    add("--predict-spans", action=argparse.BooleanOptionalAction,
        help="find the seconds where it is, if no --span says them")  # fmt: skip
    add("--spans-only", **FLAG, help="only find them: write OUTPUT.spans.json, .txt for Audacity")
    add("--span-model", metavar="MODEL", default=span_predictor.NAME, help="(%(default)s)")
    add("--span-threshold", type=float, default=0.3, metavar="P",
        help="how probable the sound must be in a span (%(default)s)")  # fmt: skip
    add("--span-gap", **SECONDS, help="fill pauses of so many seconds (0)")
    add("--span-smallest", **SECONDS, help="drop shorter spans (0)")


def video(add: Callable) -> None:
    asked = dict(action=Asked, default=argparse.SUPPRESS)
    add("--box", **asked, metavar="X0,Y0,X1,Y1", help="where the thing is in the pictures")
    add("--mask", **asked, type=home, metavar="FILE", help="a picture or video, white where it is")
    add("--video", type=home, metavar="FILE", help="the pictures, if not the input's; masked "
        "unless --box, --mask")  # fmt: skip
    add("--pick", type=home, metavar="PNG", help="draw them with a grid, to find a box, and stop")
    add("--preview", type=home, metavar="PNG", help="draw the box or mask, and stop")


def model(add: Callable) -> None:
    add("-m", "--model", help="a converted model: folder, name or hub repo (the largest that fits)")
    add("--verify", **FLAG, help="compare every byte of the model's files first")
    add("--demo", **FLAG, help="separate an example with the bundled model, offline")


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


def choice(add: Callable) -> None:
    add("-c", "--candidates", type=candidates, metavar="K",
        help='make so many and keep the best, or "auto" (%(default)s)')  # fmt: skip
    add("--ranker", help="what is best: consensus, clap:5,judge:1, ... (%(default)s)")
    add("--keep-candidates", type=home, metavar="DIR", help="write all candidates there")
    add("--gate", **FLAG, help="silence where the sound seems to be absent")
    add("--absent", type=float, metavar="DB",
        help="absent is a target so far under the mixture (%(default)g)")  # fmt: skip
    add("--no-watermark", dest="watermark", action="store_false", help="decode without the mark")


def told(add: Callable) -> None:
    add("--spectrogram", type=home, metavar="PNG", help="draw mixture, target and residual")
    add("--metrics-json", type=home, metavar="PATH", help="write the report as JSON")
    add("--no-metrics", **FLAG, help="print no report (or SAM_AUDIO_METRICS=0)")
    add("--doctor", **FLAG, help="tell what is installed, which models are there, and whether a "
        "separation comes out right")  # fmt: skip
    add("--json", **FLAG, help="with --doctor, as JSON")
    add("-v", "--verbose", **FLAG, help="say what is being done")
    add("-q", "--quiet", **FLAG, help="say nothing but notes and errors")
    add("--version", action="version", version=f"mlx-sam-audio {__version__}")


def read(arguments: list[str]) -> argparse.Namespace:
    # argparse takes "-9:12" and "-12dB" for options, and " -9:12" for a value
    number = re.compile(r"-(?=[\d.][\d.:-]*( ?dB)?$)", re.IGNORECASE)
    reader = parser()
    options = reader.parse_args([number.sub(" -", text, count=1) if number.match(text) else text
                                 for text in arguments])  # fmt: skip

    def given(name: str) -> bool:
        return getattr(options, name) != reader.get_default(name)

    for name in filter(given, ("span_model", "span_threshold", "span_gap", "span_smallest")):
        if not (options.predict_spans or options.spans_only):
            raise SAMAudioError(f"--{name.replace('_', '-')} needs --predict-spans or --spans-only")
    if given("ranker") and options.candidates == 1:
        raise SAMAudioError("--ranker chooses one of several candidates: give -c too")
    return options


def home(text: str) -> str:
    """A path in which the shell did not replace ~."""
    return os.path.expanduser(text) if not os.path.lexists(text) else text


def decibels(text: str) -> float:
    """A gain, from what is said in decibels."""
    try:
        value = float(re.sub(r"dB$", "", text.strip(), flags=re.IGNORECASE))
        if not -200 <= value <= 60:
            raise ValueError
    except ValueError:
        raise SAMAudioError(f"cannot read the gain {text!r}: write decibels, like -12dB") from None
    return 10 ** (value / 20)


def seconds(text: str) -> float:
    """A time to wait."""
    try:
        value = float(text)
        if not 0 < value <= threading.TIMEOUT_MAX:
            raise ValueError
    except ValueError:
        raise SAMAudioError(f"--lease takes a number of seconds, not {text!r}") from None
    return value


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
