"""Strange values: every option of the command with a zoo of strings, every keyword of the public
functions with a zoo of values."""

import argparse
import inspect
import json
import shlex
import shutil
from functools import cache
from pathlib import Path  # noqa: F401  in the expressions below
from random import Random

import mlx.core as mx  # noqa: F401  in the expressions below
import numpy as np

import mlx_sam_audio
from mlx_sam_audio import MaskedVideo, SAMAudio, Separation, Span, audio, rank, video_files
from mlx_sam_audio.command import parser

from . import media, models
from .pool import Different

STRINGS = [
    *json.loads(r"""["", " ", "\n", "é😀", "\udcff", "\u001b[31m", "½", "١", "a\u2028b"]"""),
    *("9" * 400, "a" * 300, "a" * 244 + ".wav", "9" * 400 + "T", "hub/../x", "a/b/c"),
    *"0 -1 1 2 1.5 1e308 1e400 nan inf -inf 0x10 1_0 a True None [1] {} %s%n {0} : , 99999".split(),
    *"../.. . / ~ ~nobody2/x /dev/zero /dev/null /etc/passwd auto mix.wav none.wav".split(),
    *"out/x.wav x.json x.png x.txt v.mp4 m.png 12:30.wav tiny judge activity 45:46 0:1.5".split(),
    *"+0:0.1 -0:0.1 +0:1e308 +nan:1 +1:0 +0:0.1:0.2 0,0,4,4 -1,0,4,4 4,4,4,4 1,2,3".split(),
    *"0,0,99999999999999999999,4 0,0,4,4.5 8GB 0GB 1B 0.0000001K clap:5,judge:1".split(),
    *"consensus:nan consensus:1e400 consistency:-1 consensus:1".split(),
]
NEEDED = {  # what an option needs beside itself
    **dict.fromkeys(["--box", "--mask", "--video", "--pick"], "-i v.mp4"),
    "--preview": "-i v.mp4 --box=0,0,4,4",
    **dict.fromkeys(["-c", "--ranker", "--keep-candidates"], "-c 2"),
    **dict.fromkeys(["--span-threshold", "--span-gap", "--span-smallest"], "--predict-spans"),
    "--span-model": "--predict-spans",
}


def draw_option(rng: Random) -> str:
    """An option that takes a value, with one."""
    actions = [action for action in parser()._actions if action.nargs != 0]
    actions = [a for a in actions if not isinstance(a, argparse.BooleanOptionalAction)]
    return f"{rng.choice(actions).option_strings[0]} {json.dumps(rng.choice(STRINGS))}"


def check_option(recipe: str) -> None:
    if recipe == "warm":
        return
    folder = models.base()
    wave = np.random.default_rng(0).normal(0, 0.1, 6000)
    audio.write("mix.wav", wave.astype(np.float32), 16_000)
    shutil.copy(folder / "media" / "good.mp4", "v.mp4")
    shutil.copy(folder / "media" / "mask.png", "m.png")
    option, value = recipe.split(" ", 1)
    value = json.loads(value)
    given = {"-m": str(folder / "model" / "tiny"), "-i": "mix.wav", "-d": "dog"}
    given |= {"--method": "euler", "--steps": "1"}
    given |= {"--span-model": str(folder / "model" / "pe_a_frame")}
    if option == "--quality":
        del given["--steps"]
    given.pop(option, None)
    given = shlex.split(NEEDED.get(option, "")) + [word for pair in given.items() for word in pair]
    value = [f"{option}={value}"] if option.startswith("--") else [option, value]
    media.command(*given, *value)


VALUES = """
None True False 0 1 -1 2 10**400 2**63 2**63-1 1.0 0.5 -0.0 np.nan np.inf -np.inf 1e308 5e-324
"" "x" "auto" "model" "subtract" "ab3" "a"*5000 b"x" "\\ud800" "\\0" "~nobody2/x" "a\\nb" "beep"
[] [1] [None] [0,1] [0,.5,1] [0,np.nan,1] [[]] {} {"a":1} {"clap":np.nan} {"consensus":"x"} set()
(1,2) (0,0,4,4) object() (lambda*a,**k:1) fails np.float32(1) np.int64(1) np.uint8(3) np.bool_(True)
np.array(1.0) np.zeros(3) np.zeros(4800,np.float32) np.zeros((2,3)) np.array(["a"]) np.zeros(0)
np.zeros((0,5)) np.full(4800,np.nan) np.full(4800,1e30,np.float32) np.full(4800,1e300)
np.zeros((5,4800)) np.ones(4800,np.complex64) np.ones(4800,np.int16) np.array([None]*10)
np.zeros((1,38,80)) np.full((1,38,80),np.inf) np.full((1,38,80),1e38) np.full((1,38,80),"x")
mx.array(1) mx.zeros((1,8,80)) mx.zeros((2,16)) mx.full((2,16),2) mx.zeros(4800)
mx.zeros((4800,),mx.bfloat16) Path("x") Path("/dev/zero") Path("/") "/etc/passwd" "x"*300 complex(1)
__import__("decimal").Decimal(1) __import__("fractions").Fraction(1,2) range(3) iter([])
(x*for*x*in[1]) int ... NotImplemented Span("+",0,.1) [Span("+",0,.1)] (Span("-",.1,.2),)
[Span("+",0,99)] {Span("+",0,.1)} [Span("+",0,.1)]*1000 [Span("+",np.float64(0),np.float32(.1))]
MaskedVideo(np.zeros((2,3,8,8),np.uint8)) ["beep"] memoryview(b"abcd") bytearray(8) Exception("x")
10_001 1000 np.datetime64("2020-01-01") np.random.default_rng(0) open("/dev/null","rb") "b.wav"
""".replace("(x*for*x*in[1])", "map(int,[1])").split()
WAVE = np.random.default_rng(0).normal(0, 0.1, 4800).astype(np.float32)
LONG = np.random.default_rng(0).normal(0, 0.1, 14_000).astype(np.float32)
FRAMES = np.zeros((2, 3, 8, 8), np.uint8)
ONE, MORE = dict(method="euler", steps=1), dict(window=0.5, overlap=0.1, method="euler", steps=1)


class Mine(Exception):
    """Raised by a caller's own function."""


def fails(*_, **__):
    raise Mine


@cache
def model(kind: str):
    folder = models.base() / "model" / kind
    return models.CLASSES.get(kind, SAMAudio).from_pretrained(folder)


def separation() -> Separation:
    return model("demo").separate(WAVE, "beep", **ONE)


CALLS = {  # name: the function, and arguments with which it does something
    "separate": (lambda: model("demo").separate, dict(audio=WAVE, description="beep", **ONE)),
    "separate_long": (
        lambda: model("demo").separate_long,
        dict(audio=LONG, description="beep", **MORE),
    ),
    "stream": (lambda: model("demo").stream, dict(audio=LONG, description="beep", **MORE)),
    "separate_batch": (
        lambda: model("demo").separate_batch,
        dict(audios=[WAVE, WAVE[:3000]], descriptions=["beep", "drum"], **ONE),
    ),
    "predict_spans": (
        lambda: model("tiny").predict_spans,
        dict(
            audio=models.WAVE, description="dog", predictor=lambda *_, **__: [(Span("+", 0, 0.1),)]
        ),
    ),
    "from_pretrained": (lambda: SAMAudio.from_pretrained, dict(name="demo")),
    "Span": (lambda: Span, dict(sign="+", start=0.0, end=1.0)),
    "Span.parse": (lambda: Span.parse, dict(text="+0:1")),
    "MaskedVideo": (lambda: MaskedVideo, dict(frames=FRAMES, mask=(0, 0, 4, 4))),
    "save": (lambda: separation().save, dict(target="t.wav", residual="r.wav")),
    "SpanPredictor": (
        lambda: model("pe_a_frame").__call__,
        dict(latents=models.LATENTS[..., :8], descriptions="dog"),
    ),
    "Judge": (
        lambda: model("judge").__call__,
        dict(mixture=WAVE, candidates=WAVE[None], description="dog"),
    ),
    "CLAP": (lambda: model("clap").__call__, dict(candidates=WAVE[None], description="dog")),
    "ImageBind": (
        lambda: model("imagebind").__call__,
        dict(candidates=WAVE[None], sample_rate=48_000, video=np.zeros((4, 3, 40, 40), np.uint8)),
    ),
    "ranker": (lambda: rank.ranker, {}),
    "audio.read": (lambda: audio.read, dict(path="b.wav", sample_rate=16_000)),
    "audio.write": (lambda: audio.write, dict(path="c.wav", samples=WAVE, sample_rate=16_000)),
    "remux": (
        lambda: video_files.remux,
        dict(source="v.mp4", sound=LONG, sample_rate=16_000, output="o.mp4"),
    ),
}


@cache
def calls() -> list[tuple[str, str]]:
    """Every keyword of every function."""
    return [
        (name, key)
        for name, (function, _) in CALLS.items()
        for key in inspect.signature(function()).parameters
    ]


def draw_call(rng: Random) -> str:
    return " ".join([*rng.choice(calls()), rng.choice(VALUES)])


def check_call(recipe: str) -> None:
    if recipe == "warm":
        return
    name, key, text = recipe.split(" ", 2)
    audio.write("b.wav", WAVE, 16_000)
    shutil.copy(models.base() / "media" / "good.mp4", "v.mp4")
    try:
        value = eval(text)  # of the table above
    except mlx_sam_audio.SAMAudioError:
        return
    function, arguments = CALLS[name]
    try:
        result = function()(**{**arguments, key: value})
        if name == "stream":
            result = list(result)
    except Mine:
        return
    for each in result if isinstance(result, list) else [result]:
        for stem in ("target", "residual"):
            wave = getattr(each, stem, None)
            if wave is not None and not np.isfinite(np.array(wave)).all():
                raise Different(f"the {stem} is not finite")
