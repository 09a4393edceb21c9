"""How public methods are called: arguments of the right kinds, one call at a time, clean threads.

Ranges, and what depends on other arguments, are checked where the values are used.
"""

import atexit
import contextlib
import functools
import inspect
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Integral, Real

import mlx.core as mx
import numpy as np

from .errors import SAMAudioError, shown
from .loading.kernels import guard_kernels
from .media.audio import RATES
from .media.video import MaskedVideo


def is_flag(value: object) -> bool:
    return isinstance(value, bool)


def is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """A real number that a float can hold."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        float(value)
    except (OverflowError, TypeError, ValueError):
        return False
    return True


def is_text(value: object) -> bool:
    """A string that can be encoded: what a terminal hands over may be no UTF-8."""
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def is_path(value: object) -> bool:
    return isinstance(value, (str, os.PathLike))


def is_array(value: object) -> bool:
    """Numbers in an array, or what becomes one."""
    if isinstance(value, mx.array):
        return True
    try:
        return np.asarray(value).dtype.kind in "fiub"
    except (ValueError, TypeError, OverflowError):
        return False


def is_rate(value: object) -> bool:
    return is_whole(value) and value in RATES


def as_array(value: object) -> mx.array:
    """What `is_array` says of: MLX alone does not take all of it."""
    return value if isinstance(value, mx.array) else mx.array(np.asarray(value))


def is_samples(value: object) -> bool:
    return is_array(value) and not (isinstance(value, mx.array) and value.dtype == mx.bfloat16)


def is_audio(value: object) -> bool:
    return is_path(value) or isinstance(value, (np.ndarray, mx.array))


def is_list(kind: Callable[[object], bool]) -> Callable[[object], bool]:
    """Several values, all of one kind."""
    single = (str, bytes, Mapping, Iterator)
    return lambda value: (
        isinstance(value, Iterable)
        and not isinstance(value, single)
        and getattr(value, "ndim", 1) == 1
        and all(map(kind, value))
    )


def anything(value: object) -> bool:
    return True


def optional(kind: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or kind(value)


def either(*kinds: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: any(kind(value) for kind in kinds)


def is_video(value: object) -> bool:
    return isinstance(value, MaskedVideo)


def is_ranker(value: object) -> bool:
    weights = isinstance(value, Mapping) and all(map(is_number, value.values()))
    return weights or is_text(value) or callable(value)


KINDS = {  # of arguments by name, in all public methods
    "audio": (is_audio, "a path, or an array of samples"),
    "audios": (is_list(is_audio), "a list of paths or arrays of samples"),
    "cancel": (optional(callable), "a function, or None"),
    "candidates": (either(is_whole, is_text), 'a number, or "auto"'),
    "description": (is_text, "a string of Unicode characters"),
    "descriptions": (either(is_text, is_list(is_text)), "strings of Unicode characters"),
    "gap": (is_number, "seconds"),
    "gate": (is_flag, "True or False"),
    "latents": (is_array, "an array of a codec's latents"),
    "max_memory": (optional(is_whole), "a number of bytes, or None"),
    "message": (optional(is_array), "an array of zeros and ones, or None"),
    "method": (is_text, "the name of a solver"),
    "name": (is_path, "a path, or a model's name"),
    "noise": (optional(is_array), "an array of numbers, or None"),
    "overlap": (is_number, "seconds"),
    "predict_spans": (either(is_flag, callable), "True, False or a span predictor"),
    "predictor": (either(is_flag, callable), "True or a span predictor"),
    "progress": (optional(callable), "a function, or None"),
    "ranker": (is_ranker, "a ranker's name, names with weights, or a function"),
    "residual": (is_text, "a word"),
    "revision": (optional(is_text), "a branch, tag or commit, or None"),
    "sample_rate": (optional(is_rate), f"{RATES[0]} to {RATES[-1]} Hz, or None"),
    "samples": (optional(is_list(is_whole)), "lengths in samples, or None"),
    "smallest": (is_number, "seconds"),
    "spans": (optional(is_list(anything)), "a list of spans"),
    "steps": (is_whole, "a whole number"),
    "threshold": (is_number, "a number"),
    "times": (optional(is_list(is_number)), "a list of numbers, or None"),
    "verify": (is_flag, "True or False"),
    "video": (optional(is_video), "a MaskedVideo, or None"),
    "videos": (optional(is_list(optional(is_video))), "a list of MaskedVideo or None"),
    "watermark": (is_flag, "True or False"),
    "window": (is_number, "seconds"),
}
SOUNDS = is_samples, "an array of samples that NumPy knows"
RATE = is_rate, f"{RATES[0]} to {RATES[-1]} Hz"
WINDOW = optional(is_number), "seconds, or None"
PATH = is_path, "a path"
NO_PATH = optional(is_path), "a path, or None"
PATIENCE = 30.0  # seconds that the interpreter's end waits for a step
ending, running = threading.Event(), set()  # threads in which a model is used
guards = threading.local()
process: dict[str, int] = {}  # in which MLX was used; its threads do not survive a fork


def public(method: Callable | None = None, **kinds: tuple[Callable, str]) -> Callable:
    """A method whose arguments are checked by name, and which only one thread runs at a time.

    kinds: of arguments that are of another kind here than elsewhere (see `KINDS`).
    """
    if method is None:
        return functools.partial(public, **kinds)
    signature = inspect.signature(method)

    @functools.wraps(method)
    def call(self, *arguments, **keywords):
        check(signature.bind(self, *arguments, **keywords).arguments, {**KINDS, **kinds})
        with alone(self):
            return method(self, *arguments, **keywords)

    return call


def check(arguments: Mapping[str, object], kinds: Mapping[str, tuple]) -> None:
    """Raises SAMAudioError that names the first argument of the wrong kind."""
    for name, value in arguments.items():
        fits, expected = kinds.get(name, (anything, ""))
        if not fits(value):
            raise SAMAudioError(f"{name} must be {expected}, not {shown(value)}")


@contextlib.contextmanager
def alone(model: object) -> Iterator[None]:
    """Only one thread at a time uses a model: MLX's arrays are not made for more. The thread's
    streams end with it."""
    guard_kernels()
    process.setdefault("id", os.getpid())
    if process["id"] != os.getpid():
        raise SAMAudioError(
            "this process was forked from one that had used a model: start it by spawn instead"
        )
    lock = vars(model).setdefault("_lock", threading.RLock())
    if not lock.acquire(blocking=False):
        raise SAMAudioError(
            f"this {type(model).__name__} is busy in another thread: wait for it, or load another"
        )
    thread = threading.current_thread()
    if thread is not threading.main_thread():
        guards.streams = Streams()
        running.add(thread)
    try:
        go_on()
        yield
    finally:
        running.discard(thread)
        lock.release()


def go_on() -> None:
    """Ends this thread if the interpreter does: MLX, stopped in the middle, would abort it."""
    if ending.is_set():
        raise SystemExit


@atexit.register
def finish() -> None:
    """Wait until the calls of daemon threads have noticed, at their next step."""
    ending.set()
    for thread in list(running):
        thread.join(PATIENCE)


def stepwise(model: object, pieces: Iterator) -> Iterator:
    """The same pieces; between them the model is free."""
    end = object()
    while True:
        with alone(model):
            piece = next(pieces, end)
        if piece is end:
            return
        yield piece


class Streams:
    """Lives as long as its thread. MLX aborts the process at its exit unless the streams of threads
    that ended were destroyed by them."""

    def __del__(self):
        mx.clear_streams()
