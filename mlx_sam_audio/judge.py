"""How well does a separated sound match its description?

Follows facebookresearch/sam-audio (sam_audio/ranking/judge.py). T samples, N frames, D width.

python -m mlx_sam_audio.judge -i mix.wav -t dog.wav -d "dog barking"
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from . import audio, chunks, load
from .calls import SOUNDS, public
from .config import JudgeConfig
from .errors import SAMAudioError, check_finite
from .files import existing
from .judge_network import JudgeNetwork
from .modernbert import Tokenizer
from .terminal import Parser, run

NAME = "judge"
FRAMES = 60  # that the codec encodes at a time: about memory.WORK_BYTES


@dataclass(frozen=True)
class Scores:
    """What the judge was trained to give: higher is better."""

    overall: float
    recall: float  # is all of the described sound there?
    precision: float  # is nothing else there?
    faithfulness: float  # does it sound as it did in the mixture?


class Judge:
    """A loaded model. A call is a pure function of its arguments."""

    def __init__(self, config: JudgeConfig, network: JudgeNetwork, tokenizer: Tokenizer):
        self.config = config
        self.network = network
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(
        cls, name: str | Path = NAME, revision: str | None = None, verify: bool = False
    ) -> "Judge":
        """Load a converted model, as `SAMAudio.from_pretrained` does."""
        folder, config, network = load.auxiliary(name, revision, JudgeConfig, JudgeNetwork, verify)
        return cls(config, network, Tokenizer(folder / "tokenizer.json", config.text))

    @property
    def sample_rate(self) -> int:
        return self.config.codec.sample_rate

    @public(mixture=SOUNDS, candidates=SOUNDS)
    def __call__(self, mixture, candidates, description: str) -> list[Scores]:
        """Judge k candidates for the described sound of one mixture.

        mixture (T,), candidates (k, T): samples at `sample_rate`. A candidate's scores do not
        depend on the others: the reference's batch gives the same where all have one length.
        Raises SAMAudioError.
        """
        mixture, candidates = (np.array(x, dtype=np.float32) for x in (mixture, candidates))
        self.check(mixture, candidates, description)
        text = self.network.embed_text(*self.tokenizer([description]))
        heard, scores = self.embed(mixture), []
        for candidate in candidates:
            row = self.network(heard, self.embed(candidate), text)[0]
            check_finite(row, "the judge's result")
            scores.append(Scores(*row.tolist()))
        return scores

    def embed(self, wave: np.ndarray) -> mx.array:
        """(T,) -> (1, N, D). The codec works in pieces that equal the whole."""
        encoded = chunks.encode(self.network.audio_codec, [wave[None]], FRAMES)
        pieces = [latents for latents, _ in encoded]
        return self.network.embed_audio(mx.concatenate(pieces, axis=1))

    def check(self, mixture: np.ndarray, candidates: np.ndarray, description: str) -> None:
        if not isinstance(description, str) or not description.strip():
            raise SAMAudioError("the description is empty: say which sound was wanted")
        if mixture.ndim != 1 or candidates.ndim != 2 or candidates.shape[1:] != mixture.shape:
            raise SAMAudioError(
                "the mixture must be (samples,) and the candidates (k, samples) of that length, "
                f"not {mixture.shape} and {candidates.shape}"
            )
        if not len(mixture) or not len(candidates):
            raise SAMAudioError("there is nothing to judge: no samples or no candidate")
        if not (np.isfinite(mixture).all() and np.isfinite(candidates).all()):
            raise SAMAudioError("the mixture or a candidate holds NaN or infinite samples")
        transformers = (self.config.transformer, self.config.finetune_transformer)
        limit = min(config.max_positions for config in transformers) - 1  # the class token
        limit *= self.config.codec.hop_length
        if len(mixture) > limit:
            raise SAMAudioError(
                f"the mixture lasts {len(mixture) / self.sample_rate:.0f} s, the judge hears at "
                f"most {limit / self.sample_rate:.0f} s: judge a part of it"
            )


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


def main(arguments: list[str] | None = None) -> int:
    return run(report, arguments)


if __name__ == "__main__":
    sys.exit(main())
