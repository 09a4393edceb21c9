"""Strange values: every option of the command with a zoo of strings, keywords of the public
functions with a zoo of values."""

# ruff: noqa: F401, the names in the expressions below
import argparse
import inspect
import itertools
import json
import shlex
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random

import mlx.core as mx
import numpy as np

from mlx_sam_audio import MaskedVideo, Mixture, SAMAudio, SAMAudioError, Settings, Span
from mlx_sam_audio.command.options import parser
from mlx_sam_audio.engine.run import Run
from mlx_sam_audio.engine.separation import Chunk, Facts, Separation
from mlx_sam_audio.media import sound_files

from . import media
from .models import FRAMES, LATENTS, WAVE, base, model
from .pool import Different

STRINGS = [
    *("", " ", "\n", "é😀", "\udcff", "\x1b[31m", "½", "١", "a\u2028b", "9" * 400, "a" * 300),
    *("a" * 244 + ".wav", "9" * 400 + "T"),
    *"0 -1 1 2 1.5 1e308 1e400 nan inf -inf 0x10 1_0 a True None [1] {} %s%n {0} : , 99999".split(),
    *"../.. . / ~ ~nobody2/x /dev/zero /dev/null /etc/passwd auto mix.wav none.wav a/b/c".split(),
    *"out/x.wav x.json x.png x.txt v.mp4 m.png 12:30.wav tiny judge activity 45:46 0:1.5".split(),
    *"+0:0.1 -0:0.1 +0:1e308 +nan:1 +1:0 +0:0.1:0.2 0,0,4,4 -1,0,4,4 4,4,4,4 1,2,3".split(),
    *"0,0,99999999999999999999,4 0,0,4,4.5 8GB 0GB 1B 0.0000001K clap:5,judge:1".split(),
    *"consensus:nan consensus:1e400 consistency:-1 consensus:1 hub/../x".split(),
]
NEEDED = {  # what an option needs beside itself
    **dict.fromkeys(["--box", "--mask", "--video", "--pick"], "-i v.mp4"),
    "--preview": "-i v.mp4 --box=0,0,4,4",
    **dict.fromkeys(["-c", "--ranker", "--keep-candidates"], "-c 2"),
    **dict.fromkeys(["--span-threshold", "--span-gap", "--span-smallest"], "--predict-spans"),
    "--span-model": "--predict-spans",
    "--bed": "--keep dog",
}


def files() -> None:
    """Inputs in the current folder."""
    sound_files.write("mix.wav", SHORT, 16_000)
    shutil.copy(base("media", "good.mp4"), "v.mp4")
    shutil.copy(base("media", "mask.png"), "m.png")


def draw_option(rng: Random) -> str:
    """An option that takes a value, with one."""
    actions = [action for action in parser()._actions if action.nargs != 0]
    actions = [a for a in actions if not isinstance(a, argparse.BooleanOptionalAction)]
    name = (rng.choice(actions).option_strings or ["INPUT"])[0]
    return f"{name} {json.dumps(rng.choice(STRINGS))}"


def check_option(recipe: str) -> None:
    files()
    option, value = recipe.split(" ", 1)
    value = json.loads(value)
    given = {"-m": str(base("model", "tiny")), "-i": "mix.wav", "-d": "dog", "--method": "euler"}
    given |= {"--steps": "1", "--span-model": str(base("model", "pe_a_frame"))}
    given.pop({"--quality": "--steps", "INPUT": "-i"}.get(option, option), None)
    words = shlex.split(NEEDED.get(option, ""))
    words += [word for pair in given.items() if pair[0] not in words for word in pair]
    if option == "INPUT":
        media.command(*words, "--", value)
    else:
        media.command(*words, *([f"{option}={value}"] if option[1] == "-" else [option, value]))


VALUES = r"""
None True False 0 1 -1 2 10**400 2**63 2**63-1 1.0 0.5 -0.0 np.nan np.inf -np.inf 1e308 5e-324
"" "x" "auto" "model" "subtract" "ab3" "a"*5000 b"x" "\ud800" "\0" "~nobody2/x" "a\nb" "beep"
[] [1] [None] [0,1] [0,.5,1] [0,np.nan,1] [[]] {} {"a":1} {"clap":np.nan} {"consensus":"x"} set()
(1,2) (0,0,4,4) object() (lambda*a,**k:1) fails np.float32(1) np.int64(1) np.uint8(3) np.bool_(True)
np.array(1.0) np.zeros(3) np.zeros(4800,np.float32) np.zeros((2,3)) np.array(["a"]) np.zeros(0)
np.zeros((0,5)) np.full(4800,np.nan) np.full(4800,1e30,np.float32) np.full(4800,1e300)
np.zeros((5,4800)) np.ones(4800,np.complex64) np.ones(4800,np.int16) np.array([None]*10)
np.zeros((1,38,80)) np.full((1,38,80),np.inf) np.full((1,38,80),1e38) np.full((1,38,80),"x")
mx.array(1) mx.zeros((1,8,80)) mx.zeros((2,16)) mx.full((2,16),2) mx.zeros(4800)
mx.zeros((4800,),mx.bfloat16) Path("x") Path("/dev/zero") Path("/") "/etc/passwd" "x"*300 complex(1)
__import__("decimal").Decimal(1) __import__("fractions").Fraction(1,2) range(3) iter([])
map(int,[1]) ... NotImplemented Span("+",0,.1) [Span("+",0,.1)] (Span("-",.1,.2),)
[Span("+",0,99)] {Span("+",0,.1)} [Span("+",0,.1)]*1000 [Span("+",np.float64(0),np.float32(.1))]
MaskedVideo(FRAMES) ["beep"] memoryview(b"abcd") bytearray(8) Exception("x") 10_001 100 "mix.wav"
np.datetime64("2020-01-01") np.random.default_rng(0) open("/dev/null","rb") Settings() "v.mp4"
Settings(candidates=2) Settings(**MORE) dict(**ONE) model("demo").encode(SHORT) "/dev/full" "out/x"
model("tiny").encode(WAVE) Path("mix.wav") (lambda*a,n=iter([0,0,1]),**k:next(n,0))
(lambda*a,**k:None) -1.0 2.0 1e-9 64 "auto:2" "consensus" "activity" "clap:1" found SHORT
{"consensus":np.float32(1)} np.float64(1)""".split()
SHORT, LONG = WAVE[:4800], np.tile(WAVE, 2)[:14_000]
ONE, PAIR, RATE = dict(method="euler", steps=1), np.stack([SHORT, SHORT / 2]), 48_000
MORE = dict(**ONE, window=0.5, overlap=0.1)
CALLS = {  # functions, and arguments with which they do something
    "separate": 'model("demo").separate: audio=SHORT, description="beep", **ONE',
    "separate_long": 'model("demo").separate_long: audio=LONG, description="beep", **MORE',
    "stream": 'model("demo").stream: audio=LONG, description="beep", **MORE',
    "separate_batch": 'model("demo").separate_batch: audios=[SHORT], descriptions=["beep"], **ONE',
    "prepare": 'model("demo").prepare: audio="mix.wav", description="beep", **MORE',
    "choose": 'model("demo").separate_long: audio=LONG, description="x", candidates="auto", **MORE',
    "resumed": 'model("demo").separate_long: audio="mix.wav", resume="state", **MORE',
    "encode": 'model("demo").encode: audio=LONG',
    "Settings": "Settings: **MORE",
    "predict_spans": 'model("tiny").predict_spans: audio=WAVE, description="dog", predictor=found',
    "from_pretrained": 'SAMAudio.from_pretrained: name="demo"',
    "Span": 'Span: sign="+", start=0.0, end=1.0',
    "Span.parse": 'Span.parse: text="+0:1"',
    "MaskedVideo": "MaskedVideo: frames=FRAMES, mask=(0, 0, 4, 4)",
    "save": 'model("demo").separate(SHORT, "beep", **ONE).save: target="t.wav", residual="r.wav"',
    "SpanPredictor": 'model("pe_a_frame").__call__: latents=LATENTS[..., :8], descriptions="dog"',
    "Judge": 'model("judge").__call__: mixture=SHORT, candidates=PAIR, description="dog"',
    "CLAP": 'model("clap").__call__: candidates=PAIR, description="dog"',
    "ImageBind": 'model("imagebind").__call__: candidates=PAIR, sample_rate=RATE, video=FRAMES',
}


class Mine(Exception):
    """Raised by a caller's own function."""


def fails(*_, **__):
    raise Mine


def found(*_, **__):
    return [(Span("+", 0, 0.1),)]


@cache
def call(name: str) -> tuple[Callable, dict]:
    function, arguments = CALLS[name].split(": ", 1)
    return eval(function), eval(f"dict({arguments})")


def draw_call(rng: Random) -> str:
    """A function, and some of its keywords, each with a value."""
    name = rng.choice([*CALLS])
    keywords = [*inspect.signature(call(name)[0]).parameters]
    words = ((rng.choice(keywords), rng.choice(VALUES)) for _ in range(rng.choice([1, 1, 2, 3])))
    return " ".join([name, *itertools.chain.from_iterable(words)])


def check_call(recipe: str) -> None:
    name, *words = recipe.split(" ")
    files()
    before, given = contents(), {}
    try:
        given = dict(zip(words[::2], map(eval, words[1::2]), strict=True))
        function, arguments = call(name)
        result = function(**{**arguments, **given})
        pieces = list(result) if isinstance(result, (list, Iterator, Run)) else [result]
        if isinstance(result, Run):
            result.forget()
        for facts in [result.facts] if isinstance(result, Run) else pieces:
            if isinstance(facts, Facts):
                json.dumps(facts.report())
    except Mine:
        return
    finally:
        changed = {path for path, _ in before ^ contents()}
        if changed - ({"t.wav", "r.wav", *map(str, given.values())} if name == "save" else set()):
            raise Different(f"{sorted(changed)} were changed or left")
    for piece in pieces:
        values = piece[:] if isinstance(piece, Mixture) else []
        if isinstance(piece, Separation | Chunk):
            values = np.array([piece.target, piece.residual])
        if not np.isfinite(values).all():
            raise Different("the result is not finite")


def contents() -> set[tuple[str, bytes]]:
    """The files of the current folder."""
    found = (path for path in Path().rglob("*") if path.is_file())
    return {(str(path), path.read_bytes()) for path in found}
