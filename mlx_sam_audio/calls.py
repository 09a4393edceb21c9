"""How public methods are called: arguments of their kinds, one call at a time, clean threads."""

import atexit
import contextlib
import functools
import inspect
import os
import threading
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import mlx.core as mx

from . import kinds
from .errors import Cancelled, SAMAudioError
from .loading.kernels import guard_kernels

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
Cancel = Callable[[], bool] | None
PATIENCE = 30.0  # seconds that the interpreter's end waits for a step
ending, running = threading.Event(), set()  # threads in which a model is used
threads = threading.local()  # what belongs to one
process: dict[str, int] = {}  # in which MLX was used; its threads do not survive a fork


def public(method: Callable[P, R]) -> Callable[P, R]:
    """A method whose arguments are of the kinds it is annotated with, which only one thread runs at
    a time, and which ends when its argument `cancel`, if it has one, says so."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def call(self, *arguments, **keywords):
        given = signature.bind(self, *arguments, **keywords).arguments
        kinds.check(given, method)
        with alone(self, given.get("cancel")):
            return method(self, *arguments, **keywords)

    return call


@contextlib.contextmanager
def alone(model: object, cancel: Cancel = None) -> Iterator[None]:
    """Only one thread at a time uses a model: MLX's arrays are not made for more. The thread's
    streams end with it. cancel: what `go_on` asks while the body runs, too."""
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
    first = thread is not threading.main_thread() and thread not in running
    if first:
        threads.streams = getattr(threads, "streams", None) or Streams()
        running.add(thread)
    outer = getattr(threads, "cancel", None)
    threads.cancel = cancel or outer
    try:
        go_on()
        yield
    finally:
        threads.cancel = outer
        if first:
            running.discard(thread)
        lock.release()


def go_on() -> None:
    """To be called between steps. Ends this thread if the interpreter ends, since MLX, stopped in
    the middle, would abort it; and the call, if its caller says so."""
    if ending.is_set():
        raise SystemExit
    cancel = getattr(threads, "cancel", None)
    if cancel is not None and cancel():
        raise Cancelled("stopped on request; nothing was written")


@atexit.register
def finish() -> None:
    """Wait until the calls of daemon threads have noticed, at their next step."""
    ending.set()
    for thread in list(running):
        thread.join(PATIENCE)


def stepwise(model: object, pieces: Iterator[T], cancel: Cancel = None) -> Iterator[T]:
    """The same pieces; between them the model is free. cancel: what ends them, if it is true."""
    end = object()
    while True:
        with alone(model, cancel):
            piece = next(pieces, end)
        if piece is end:
            return
        yield piece


class Streams:
    """Lives as long as its thread. MLX aborts the process at its exit unless the streams of threads
    that ended were destroyed by them."""

    def __del__(self):
        mx.clear_streams()
