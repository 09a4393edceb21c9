"""Other processes that `mlx.launch` started, which make jobs of the first one, which serves.

They share the server's folder and nothing else, so that one that is gone or slow costs time alone.
There, each process has a claim that it renews; the first one writes what it is to do, and removes
that when it is no longer wanted; it writes how far it is. All of these are whole files.
"""

import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import mlx.core as mx

from .. import __version__
from ..command import claims
from ..engine.progress import Progress
from ..errors import Gone, SAMAudioError
from ..files import make_folder, remove
from .catalogue import Catalogue
from .job import Job
from .refusal import body
from .shelf import kept_as, read_json, write_json
from .worker import Outcome, Worker

log = logging.getLogger("mlx_sam_audio.server")
POLL = 0.3  # seconds
CHANGES = ("spans", "predicted", "notes")  # of a job, while it is made
AGREED = {"version": __version__, "version of MLX": mx.__version__}
SAME = "is --keep the same folder for all?"


class Place:
    """The folder that all share, as one of them sees it."""

    def __init__(self, keep: Path, rank: int, lease: float):
        self.folder, self.lease = keep / "workers", lease
        self.pact = self.folder / "serves.json"  # of the first process
        self.claim, self.task, self.told, self.clock = (
            self.folder / f"{rank}.{what}" for what in ("claim", "task", "told", "clock")
        )

    def lives(self, claim: Path) -> bool:
        """Does the process of a claim show that it is there?"""
        now = claims.clock(self.clock)
        return bool(claims.told(claim)) and not claims.is_left(claim, now, self.lease)


class Other:
    """Another process, as the first one sees it."""

    patience = POLL

    def __init__(self, keep: Path, rank: int, lease: float, catalogue: Catalogue):
        self._rank, self._catalogue = rank, catalogue
        self._place = Place(keep, rank, lease)
        self.here = False

    def takes(self, job: Job) -> bool:
        return self.here and not job.ours

    def rest(self) -> None:
        """Show that the server lives, and look whether the other one does."""
        claims.renew(self._place.pact)
        before, self.here = self.here, self._place.lives(self._place.claim)
        if self.here != before:
            log.info("rank %d %s", self._rank, "works here" if self.here else "is gone")

    def make(self, job: Job, folder: Path, tell: Callable[[], object]) -> Outcome | None:
        """Let it do a job; None, and a line in the log, if it could not."""
        number, place = secrets.token_hex(8), self._place
        task = {"number": number, "job": job.id}
        try:
            task["models"] = self._catalogue.identity(job.request["model"])
            write_json(place.task, task)
            while self.here and not job.stop.is_set():
                time.sleep(POLL)
                self.rest()
                told = read_json(place.told) or {}
                if told.get("number") == number:
                    self._heard(job, told)
                    tell()
                    if "status" in told:
                        break
            else:
                return Outcome("cancelled") if job.stop.is_set() else None
        except SAMAudioError as error:
            log.warning("%s goes to no other process: %s", job.id, error)
            return None
        finally:
            remove(place.task)
        outcome = Outcome(told["status"], told["error"], told["told"])
        if outcome.status == "failed":
            message = outcome.error["message"]
            log.warning("%s failed at rank %d, rank 0 tries: %s", job.id, self._rank, message)
            return None
        return outcome

    def _heard(self, job: Job, told: dict) -> None:
        for name in CHANGES:
            setattr(job, name, told.get(name, getattr(job, name)))
        job.progress = Progress(**told["progress"]) if told.get("progress") else None


@contextlib.contextmanager
def others(keep: Path, size: int, lease: float, catalogue: Catalogue) -> Iterator[list[Other]]:
    """The processes beside the first one, which end with the body."""
    if size == 1:
        yield []
        return
    place = Place(keep, 0, lease)
    remove(place.folder)  # of a server that was killed
    make_folder(place.folder)
    try:
        write_json(place.pact, {**claims.me(), "agreed": AGREED})
        yield [Other(keep, rank, lease, catalogue) for rank in range(1, size)]
    finally:
        remove(place.folder)


def work(keep: Path, rank: int, lease: float, worker: Worker) -> None:
    """What another process does until the first one ends."""
    place, last = Place(keep, rank, lease), None
    join(place, rank)
    log.info("rank %d works for %s", rank, place.folder.parent)
    try:
        idle = time.monotonic()
        while place.lives(place.pact):
            show(place)
            task = read_json(place.task) or {}
            if task.get("number", last) != last:
                last = task["number"]
                do(place, task, worker)
                idle = time.monotonic()
            elif worker.patience is not None and time.monotonic() - idle > worker.patience:
                worker.rest()
            time.sleep(POLL)
    finally:
        remove(place.claim)
    if claims.told(place.pact):
        raise Gone(f"the server in {keep} is gone")


def join(place: Place, rank: int) -> None:
    """Wait for the first process. Raises SAMAudioError where it is of another version."""
    make_folder(place.folder)
    start, since = time.monotonic(), claims.clock(place.clock)
    while not fresh(place.pact, since):
        if time.monotonic() - start > place.lease:
            raise SAMAudioError(f"rank 0 never came to {place.folder.parent}: {SAME}")
        time.sleep(POLL)
    theirs = claims.told(place.pact).get("agreed")
    if others := [name for name, value in AGREED.items() if theirs.get(name) != value]:
        raise SAMAudioError(
            f"rank {rank} has another {' and another '.join(others)} than rank 0: make them the "
            "same"
        )
    show(place)


def fresh(pact: Path, since: float) -> bool:
    """Is it renewed, and not of a server that was killed?"""
    try:
        return bool(claims.told(pact)) and pact.stat().st_mtime >= since
    except OSError:
        return False


def show(place: Place) -> None:
    """Renew the claim."""
    if claims.is_mine(place.claim):
        claims.renew(place.claim)
    else:
        write_json(place.claim, claims.me())


def do(place: Place, task: dict, worker: Worker) -> None:
    """Make a job, and tell of it."""
    folder = place.folder.parent / "jobs" / task["job"]
    wish = Wish(place, task["number"])
    if job := kept_as(Job, folder / "job.json"):
        wish.job, job.stop = job, wish
        outcome = worker.make(job, folder, wish.tell, task["models"])
    else:
        outcome = Outcome("failed", body(SAMAudioError(f"there is no {folder}: {SAME}")))
    while not wish.is_set():
        with contextlib.suppress(SAMAudioError):  # no room, say: until there is, or nobody asks
            wish.say(outcome)
            return
        time.sleep(POLL)


class Wish:
    """What the first process wants of another one, as that one sees it."""

    def __init__(self, place: Place, number: str):
        self.job: Job | None = None
        self._place, self._number = place, number
        self._looked = self._told = 0.0
        self._over = False

    def is_set(self) -> bool:
        """Is it over? As the event of a job that is to be stopped."""
        if time.monotonic() > self._looked + POLL:
            show(self._place)
            task, self._looked = read_json(self._place.task) or {}, time.monotonic()
            wanted = task.get("number") == self._number
            self._over = not (wanted and self._place.lives(self._place.pact))
        return self._over

    def tell(self) -> None:
        """How far the job is, from time to time."""
        if time.monotonic() > self._told + POLL:
            with contextlib.suppress(SAMAudioError):
                self.say()
            self._told = time.monotonic()

    def say(self, outcome: Outcome | None = None) -> None:
        told = {"number": self._number, **(outcome._asdict() if outcome else {})}
        if self.job:
            told |= {name: getattr(self.job, name) for name in CHANGES}
            told["progress"] = self.job.progress and asdict(self.job.progress)
        write_json(self._place.told, told)
