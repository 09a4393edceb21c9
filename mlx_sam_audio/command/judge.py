"""What `python -m mlx_sam_audio.judge` does."""

import argparse
import json
from dataclasses import asdict

import numpy as np

from ..errors import SAMAudioError
from ..files import existing
from ..media import audio
from ..ranking.judge import NAME, Judge, Scores
from .terminal import Parser


def parser() -> Parser:
    parser = Parser(
        prog="python -m mlx_sam_audio.judge",
        description="Score how well separated sounds match their description.",
    )
    parser.add_argument("-i", "--input", required=True, help="the recording: any audio file")
    parser.add_argument(
        "-t", "--target", required=True, nargs="+", help="what was separated from it, one or more"
    )
    parser.add_argument("-d", "--description", required=True, help='the sound: "dog barking"')
    parser.add_argument("-m", "--model", default=NAME, help=f"a converted judge ({NAME})")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def judge(options: argparse.Namespace) -> dict[str, Scores]:
    """Scores by target."""
    for path in (options.input, *options.target):
        existing(path)
    model = Judge.from_pretrained(options.model)
    mixture, *targets = (
        audio.read(path, model.sample_rate) for path in (options.input, *options.target)
    )
    # resampled from different rates, the same time may differ by some samples
    length = min(map(len, (mixture, *targets)))
    for path, target in zip(options.target, targets, strict=True):
        if max(len(mixture), len(target)) - length >= model.config.codec.hop_length:
            raise SAMAudioError(
                f"{options.input} lasts {len(mixture) / model.sample_rate:.2f} s and {path} "
                f"{len(target) / model.sample_rate:.2f} s: a target is as long as its mixture"
            )
    candidates = np.stack([target[:length] for target in targets])
    scores = model(mixture[:length], candidates, options.description)
    return dict(zip(options.target, scores, strict=True))


def table(scores: dict[str, Scores]) -> str:
    """A line of headings, then one for each target."""
    names = list(Scores.__dataclass_fields__)
    width = max(map(len, scores))
    rows = [" ".join([" " * width, *(f"{name:>12}" for name in names)])]
    for target, score in scores.items():
        values = (f"{value:12.3f}" for value in asdict(score).values())
        rows.append(" ".join([f"{target:{width}}", *values]))
    return "\n".join(rows)


def report(arguments: list[str]) -> None:
    options = parser().parse_args(arguments)
    scores = judge(options)
    if options.json:
        rows = [{"target": target, **asdict(score)} for target, score in scores.items()]
        values = {"input": options.input, "description": options.description, "targets": rows}
        print(json.dumps(values, indent=2))
    else:
        print(table(scores))
