"""Other processes that `mlx.launch` started, which make jobs of the first one, which serves.

They share the server's folder and nothing else, so that one that is gone or slow costs time alone.
There, each process has a claim that it renews; the first one writes a task for each of the others,
which write news of it. All of these are whole files; one that cannot be read is looked at again.
"""

import contextlib
import logging
import math
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import mlx.core as mx

from .. import __version__
from ..command import claims
from ..command.manifest import SHARED
from ..engine.progress import Progress
from ..errors import Gone, SAMAudioError
from ..files import HOST, make_folder, remove, runs
from .catalogue import Catalogue
from .job import Job
from .refusal import body
from .shelf import kept_as, read_json, write_json
from .worker import Outcome, Worker

log = logging.getLogger("mlx_sam_audio.server")
POLL = 0.3  # seconds
AGAIN = 1.0  # before it is said that a process is gone; a machine that slept wakes them in turn
PATIENCE = 30.0  # seconds that one has to stop
CHANGES = ("spans", "predicted", "notes")  # of a job, while it is made
AGREED = {"version": __version__, "version of MLX": mx.__version__}
SAME = "is --keep the same folder for all?"


class Claim:
    """What another process renews as long as it lives. Clocks are not compared: they differ."""

    def __init__(self, path: Path, lease: float):
        self.path, self._lease = path, lease
        self._last, self._seen, self._lived = None, -math.inf, False

    def state(self) -> dict | None:
        """Another one whenever it is renewed; None, if it is not there or not to be read."""
        try:
            renewed = self.path.stat().st_mtime_ns
        except OSError:
            return None
        found = claims.told(self.path)
        return {**found, "renewed": renewed} if found else None

    def lives(self) -> bool:
        before, self._lived = self._lived, self._renewed()
        if before and not self._lived:
            time.sleep(AGAIN)
            self._lived = self._renewed()
        return self._lived

    def _renewed(self) -> bool:
        state, now = self.state(), time.monotonic()
        if state and state["host"] == HOST and not runs(state["process"]):
            return False
        if state and state != self._last:
            self._last, self._seen = state, now
        return bool(state) and now - self._seen < self._lease


class Place:
    """The folder that all share, as rank 0 and another one see it."""

    def __init__(self, keep: Path, rank: int, lease: float):
        self.folder, self.lease = keep / SHARED, lease
        self.server = Claim(self.folder / "server.claim", lease)
        self.worker = Claim(self.folder / f"{rank}.claim", lease)
        self.task, self.news = self.folder / f"{rank}.task", self.folder / f"{rank}.news"


class Other:
    """Another process, as the first one sees it."""

    patience = POLL

    def __init__(self, keep: Path, rank: int, lease: float, catalogue: Catalogue):
        self._rank, self._catalogue = rank, catalogue
        self._place = Place(keep, rank, lease)
        self._lacks: set[str] = set()  # models
        self.here = False

    def takes(self, job: Job) -> bool:
        return self.here and self not in job.tried and job.request["model"] not in self._lacks

    def rest(self) -> None:
        """Show that the server lives, and look whether the other one does."""
        claims.renew(self._place.server.path)
        before, self.here = self.here, self._place.worker.lives()
        if self.here != before:
            log.info("rank %d %s", self._rank, "works here" if self.here else "is gone")

    def make(self, job: Job, folder: Path, tell: Callable[[], object]) -> Outcome | None:
        """Let it do a job; None, and a line in the log, if it could not."""
        try:
            outcome = self._made(job, tell)
        except Exception as error:  # noqa: BLE001 - this process can do it
            log.error("%s cannot be handed to rank %d", job.id, self._rank, exc_info=error)
            outcome = None
        finally:
            remove(self._place.task)
        if job.stop.is_set():
            return outcome if outcome and outcome.status == "done" else Outcome("cancelled")
        if outcome and outcome.status == "done":
            return outcome
        if outcome and outcome.error:
            message = outcome.error["message"]
            log.warning("%s failed at rank %d, another one tries: %s", job.id, self._rank, message)
        if outcome and outcome.status == "refused":
            self._lacks.add(job.request["model"])
        return None

    def _made(self, job: Job, tell: Callable[[], object]) -> Outcome | None:
        number, place, last, end = secrets.token_hex(8), self._place, None, math.inf
        task = {"number": number, "job": job.id, "stop": False}
        task["models"] = self._catalogue.identity(job.request)
        write_json(place.task, task)
        while self.here and time.monotonic() < end:
            time.sleep(POLL)
            self.rest()
            if job.stop.is_set() and not task["stop"]:
                task["stop"], end = True, time.monotonic() + PATIENCE
                write_json(place.task, task)
            news = read_json(place.news)
            if not news or news == last or news["number"] != number:
                continue
            last = news
            for name in CHANGES:
                setattr(job, name, news.get(name, getattr(job, name)))
            job.progress = Progress(**news["progress"]) if news.get("progress") else None
            tell()
            if "status" in news:
                return Outcome(news["status"], news["error"], news["results"])
        return None


@contextlib.contextmanager
def others(keep: Path, size: int, lease: float, catalogue: Catalogue) -> Iterator[list[Other]]:
    """The processes beside the first one, which end with the body."""
    place = Place(keep, 0, lease)
    remove(place.folder)  # of a server that was killed
    if size == 1:
        yield []
        return
    make_folder(place.folder)
    try:
        write_json(place.server.path, {**claims.me(), "agreed": AGREED})
        yield [Other(keep, rank, lease, catalogue) for rank in range(1, size)]
    finally:
        remove(place.folder)


def work(keep: Path, rank: int, lease: float, worker: Worker, catalogue: Catalogue) -> None:
    """What another process does until the first one ends."""
    place, last, idle = Place(keep, rank, lease), None, time.monotonic()
    server = join(place, rank)
    log.info("rank %d works for %s", rank, keep)
    try:
        while place.server.lives() and claims.told(place.server.path) in (server, claims.EMPTY):
            show(place)
            task = read_json(place.task)
            if task and task["number"] != last:
                last = task["number"]
                do(place, task, worker, catalogue)
                idle = time.monotonic()
            elif worker.patience is not None and time.monotonic() - idle > worker.patience:
                worker.rest()
            time.sleep(POLL)
        if claims.told(place.server.path) == server:
            raise Gone(f"the server in {keep} is gone")
    finally:
        if claims.is_mine(place.worker.path):
            remove(place.worker.path)


def join(place: Place, rank: int) -> dict:
    """Wait for the first process, and return its claim. Raises SAMAudioError where it is of another
    version."""
    start, first = time.monotonic(), place.server.state()  # which may be of one that was killed
    while place.server.state() in (None, first):
        if time.monotonic() - start > place.lease:
            raise SAMAudioError(f"rank 0 never came to {place.folder.parent}: {SAME}")
        time.sleep(POLL)
    server = claims.told(place.server.path)
    agreed = server.get("agreed") or {}
    if others := [name for name, value in AGREED.items() if agreed.get(name) != value]:
        raise SAMAudioError(
            f"rank {rank} has another {' and another '.join(others)} than rank 0: make them the "
            "same"
        )
    return server


def show(place: Place) -> None:
    """Renew the claim."""
    if claims.is_mine(place.worker.path):
        claims.renew(place.worker.path)
    else:
        with contextlib.suppress(SAMAudioError):  # where the server ends
            write_json(place.worker.path, claims.me())


def do(place: Place, task: dict, worker: Worker, catalogue: Catalogue) -> None:
    """Make a job, and tell of it."""
    folder = place.folder.parent / "jobs" / task["job"]
    job = kept_as(Job, folder / "job.json")
    wish = Wish(place, task["number"], job)
    try:
        if job is None:
            raise SAMAudioError(f"there is no {folder}: {SAME}")
        job.stop = wish
        if catalogue.identity(job.request) == task["models"]:
            outcome = worker.make(job, folder, wish.tell)
        else:
            text = f"its {job.request['model']}, or what is needed beside it, is not rank 0's"
            outcome = Outcome("refused", body(SAMAudioError(f"{text}: make all models the same")))
    except (SAMAudioError, OSError) as error:
        outcome = Outcome("failed", body(SAMAudioError(str(error))))
    while not wish.say(outcome) and place.server.lives():  # no room, say
        time.sleep(POLL)


class Wish:
    """What the first process wants of another one, as that one sees it."""

    def __init__(self, place: Place, number: str, job: Job | None):
        self._place, self._number, self._job = place, number, job
        self._looked = self._told = 0.0
        self._over = False

    def is_set(self) -> bool:
        """Is it over? As the event of a job that is to be stopped."""
        if time.monotonic() > self._looked + POLL:
            show(self._place)
            task, self._looked = read_json(self._place.task), time.monotonic()
            other = bool(task) and (task["stop"] or task["number"] != self._number)
            self._over = other or not self._place.server.lives()
        return self._over

    def tell(self) -> None:
        """How far the job is, from time to time."""
        if time.monotonic() > self._told + POLL:
            self.say()
            self._told = time.monotonic()

    def say(self, outcome: Outcome | None = None) -> bool:
        """Whether it could be written."""
        news = {"number": self._number, **(outcome._asdict() if outcome else {})}
        if job := self._job:
            news |= {name: getattr(job, name) for name in CHANGES}
            news["progress"] = job.progress and asdict(job.progress)
        try:
            write_json(self._place.news, news)
        except SAMAudioError:
            return False
        return True
