"""The processes that `mlx.launch` started together, on one machine or several.

All of them make the same run, step by step, and share its work: each computes a part of an array,
and MLX adds up the parts. There is one collective at a time, in NumPy and on the CPU, so that no
GPU waits for a network. What stops one process is told to the others with its part.
"""

import json
import math
import os
import re
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..errors import Gone, SAMAudioError
from ..models.chunks import Workers
from ..settings import digest

RANK, LISTS = "MLX_RANK", {"MLX_HOSTFILE": "ring", "MLX_IBV_DEVICES": "jaccl"}  # of hosts
OLDEST = 0, 32, 2  # before it, MLX waits for ever for one that died
MEETING = 60  # seconds in which all processes must come, and then have loaded the model


def launched() -> tuple[int, int]:
    """This process's rank, and how many there are; 0 and 1 without `mlx.launch`."""
    names = [name for name in LISTS if name in os.environ]
    if RANK not in os.environ or not names:
        return 0, 1
    path = os.environ[names[0]]
    try:
        text = Path(path).read_text().strip()  # empty where there is but one host
        rank, size = int(os.environ[RANK]), len(json.loads(text)) if text else 1
    except (OSError, ValueError, TypeError, RecursionError):
        rank, size = 0, 0
    if not 0 <= rank < size:
        raise SAMAudioError(f"{RANK} and {path} do not tell who works here, as mlx.launch does")
    return rank, size


class Group(Workers):
    """Processes that make one run together; of one process there is nothing to join.

    patience: seconds to wait for the others. hangs: what is called then, which must end the
    process, since nothing else ends a collective.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        ring: object = None,
        patience: float = math.inf,
        hangs: Callable[[], None] | None = None,
    ):
        self.rank, self.size, self._ring = rank, size, ring
        self._patience, self._hangs, self._met = patience, hangs, False

    def joined(self, shape: Sequence[int], fill: Callable[[np.ndarray], None]) -> np.ndarray:
        """The sum of what every process puts into zeros of a shape, if none of them is stopped."""
        if self.size == 1:
            return super().joined(shape, fill)
        part, stopped = np.zeros(math.prod(shape) + 1, np.float32), None
        try:
            fill(part[:-1].reshape(shape))
        except BaseException as error:  # noqa: BLE001 - raised when the others know
            stopped, part[-1] = error, 1
        whole = self._sum(part)
        if stopped is not None:
            raise stopped
        if whole[-1]:
            raise Gone("another process stopped, and says why; --resume goes on")
        return whole[:-1].reshape(shape)

    def of_first(self, shape: Sequence[int], make: Callable[[], object]) -> np.ndarray:
        """What the first process makes."""

        def fill(part: np.ndarray) -> None:
            if self.rank == 0:
                part[...] = make()

        return self.joined(shape, fill)

    def gathered(self, values: Sequence[float]) -> np.ndarray:
        """The values of all, (size, n)."""

        def fill(part: np.ndarray) -> None:
            part[self.rank] = values

        return self.joined((self.size, len(values)), fill)

    def agree(self, values: dict[str, object]) -> None:
        """Raises SAMAudioError unless all have the same values, by name."""
        if self.size == 1:
            return
        short = [int(digest(value)[:6], 16) for value in values.values()]  # exact in float32
        rows = self.gathered(short)
        for rank, row in enumerate(rows):
            if others := [
                name for name, same in zip(values, row == rows[0], strict=True) if not same
            ]:
                raise SAMAudioError(
                    f"rank {rank} has another {' and another '.join(others)} than rank 0: make "
                    "them the same"
                )

    def _sum(self, part: np.ndarray) -> np.ndarray:
        patience = self._patience if self._met else max(self._patience, MEETING)
        timer = threading.Timer(patience, self._hangs)  # eval lets other threads run
        timer.daemon = True
        timer.start()
        try:
            whole = mx.distributed.all_sum(mx.array(part), group=self._ring, stream=mx.cpu)
            mx.eval(whole)
        except RuntimeError as error:
            raise Gone(f"another process is gone ({error}); --resume goes on") from None
        finally:
            timer.cancel()
        self._met = True
        return np.array(whole)


SINGLE = Group()


def joined_by_launch(patience: float, hangs: Callable[[], None]) -> Group:
    """The group of `mlx.launch`; to be called in the main thread, before much is done, since all
    must come at about the same time."""
    rank, size = launched()
    if size == 1:
        return SINGLE
    if tuple(map(int, re.findall(r"\d+", mx.__version__)[:3])) < OLDEST:
        raise SAMAudioError(
            f"several processes for one recording need MLX {'.'.join(map(str, OLDEST))}, not "
            f"{mx.__version__}: pip install -U mlx"
        )
    backend = next(LISTS[name] for name in LISTS if name in os.environ)
    old = signal.signal(signal.SIGALRM, lambda *_: None)  # ends the system's call that waits
    signal.setitimer(signal.ITIMER_REAL, MEETING, 1)  # again: another thread may get the first
    try:
        ring = mx.distributed.init(strict=True, backend=backend)
    except (RuntimeError, ValueError) as error:
        raise SAMAudioError(f"the {size} processes do not find each other: {error}") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    return Group(ring.rank(), ring.size(), ring, patience, hangs)
