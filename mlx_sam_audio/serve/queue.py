"""The jobs: a bounded queue, a thread for each process that makes them, and what is told of both.

All that changes is changed under one lock, by any thread. Who waits for a job is woken in the
server's loop, and looks at it again: nobody gets more than he can read.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from ..errors import SAMAudioError
from ..files import remove, sweep
from .job import Job
from .others import Other
from .refusal import Refusal, body, invalid, missing
from .requests import Source, Wanted
from .shelf import Shelf, kept_as, link, new_id, own, write_json
from .worker import Outcome, Worker

log = logging.getLogger("mlx_sam_audio.server")
STOPPED = "the server was stopped while this job ran: start it again"
LEAST_WAIT = 5  # seconds, of Retry-After


def stopped() -> Refusal:
    return Refusal(503, "stopped", STOPPED)


class Queue:
    """The jobs of a server. most: that wait; makers: this process, and others."""

    def __init__(self, shelf: Shelf, most: int, makers: Sequence[Worker | Other]):
        self._shelf, self._most, self._makers = shelf, most, makers
        self._wake, self._stopping = threading.Condition(), False
        self._waiting: list[Job] = []
        self._running: list[Job] = []
        self._paces: dict[str, float] = {}  # work a second, by model
        self.counts, self.sums = Counter(), Counter()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads = [threading.Thread(target=self._run, args=[maker]) for maker in makers]
        self._jobs = {job.id: job for job in self._kept()}

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Cancel what runs; what waits is found again, if the folder is kept."""
        with self._wake:
            self._stopping = True
            for job in self._running:
                job.stop.set()
            self._wake.notify_all()
        for job in list(self._jobs.values()):
            self._tell(job)

    def join(self) -> None:
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    @property
    def stopping(self) -> bool:
        return self._stopping

    def _kept(self) -> Iterator[Job]:
        """What an earlier server left: what waited waits again, what ran has failed."""
        found = []
        for folder in self._shelf.kept("j"):
            job = kept_as(Job, folder / "job.json")
            if job is None:
                continue
            sweep(folder)
            if job.status == "running":
                job.status, job.finished = "failed", time.time()
                job.error = body(stopped())
                self._save(job)
            found.append(job)
        found.sort(key=lambda job: job.created)
        self._waiting = [job for job in found if job.status == "queued"]
        yield from found

    def all(self) -> list[Job]:
        """The newest first."""
        return sorted(self._jobs.values(), key=lambda job: -job.created)

    def job(self, id: object) -> Job:
        if not isinstance(id, str) or id not in self._jobs:
            raise missing("such job")
        return self._jobs[id]

    def folder(self, job: Job) -> Path:
        return self._shelf.place(job.id)

    def stem(self, job: Job, name: str) -> Path:
        """The file of a stem. Raises Refusal."""
        if not job.ended:
            raise Refusal(409, "not_done", f"the job is {job.status}: its stems are not there yet")
        if name not in job.stems:
            raise missing("such stem of this job")
        return own(self.folder(job) / f"{name}.wav")

    def source(self, given: object) -> Source:
        """What a request's input names."""
        if isinstance(given, dict) and given.keys() == {"file"}:
            file = self._shelf.file(given["file"])
            path = self._shelf.content(file)
            film = path if file.video else None
            return Source(
                given, file.name, path, self._shelf.lane(file), film, file.video, file.sides,
                file.samples, file.sample_rate,
            )  # fmt: skip
        if isinstance(given, dict) and given.keys() == {"job", "stem"}:
            job, stem = self.job(given["job"]), given["stem"]
            path = self.stem(job, stem if isinstance(stem, str) else "")
            film = self.folder(job) / job.film if job.film else None
            sides = "mono" if job.channels == 1 else "both"
            samples = round(job.seconds * job.sample_rate)
            return Source(
                given, job.name, path, path, film, job.size, sides, samples, job.sample_rate
            )
        text = 'the input is {"file": id} or {"job": id, "stem": name}'
        raise invalid(text, "input")

    def add(self, wanted: Wanted) -> Job:
        """A job that was checked. Raises Refusal where too many wait."""
        self.check_length()
        self._shelf.check_room(wanted.bytes)
        source, film = wanted.source, None
        if wanted.source.film:
            film = "input" if source.film == source.path else "film"
        job = Job(
            id=new_id("j"),
            kind=wanted.kind,
            title=wanted.title,
            request=wanted.request(),
            name=source.name,
            film=film,
            size=source.size,
            seconds=source.samples / source.sample_rate,
            work=wanted.work,
            created=time.time(),
            notes=list(wanted.notes),
        )
        job.spans = job.request.get("spans", [])
        with self._shelf.making(job.id) as part:
            link(source.path, part / "input")
            if film == "film":
                link(source.film, part / film)
            write_json(part / "job.json", asdict(job))
        with self._wake:
            if self._stopping:
                self._shelf.forget(job.id)
                raise Refusal(503, "stopping", "the server is being stopped")
            self._jobs[job.id] = job
            self._waiting.append(job)
            self._wake.notify_all()
        return job

    def check_length(self) -> None:
        """Raises Refusal where too many wait."""
        if len(self._waiting) >= self._most:
            left = min((self._left(job) or 0 for job in self._running), default=0)
            wait = max(LEAST_WAIT, round(left))
            text = f"{self._most} jobs wait already: try again in {wait} s"
            raise Refusal(429, "queue_full", text, Retry_After=wait)

    def cancel(self, job: Job) -> None:
        with self._wake:
            if job in self._waiting:
                self._waiting.remove(job)
                self._end(job, Outcome("cancelled"))
            elif not job.ended:
                job.stop.set()
        self._tell(job)

    def rename(self, job: Job, title: str | None) -> None:
        with self._wake:
            job.title = title
            self._save(job)
        self._tell(job)

    def forget(self, job: Job) -> None:
        """Cancel it, and remove all of it, which the worker does if it is at it."""
        self.cancel(job)
        with self._wake:
            self._jobs.pop(job.id, None)
            job.forgotten = True
            if job not in self._running:
                self._shelf.forget(job.id)
        self._tell(job)

    def expire(self) -> None:
        """Forget what is old."""
        for id in self._shelf.expired():
            self._shelf.forget(id)
        for job in self.all():
            if job.ended and (ends := self.expires(job)) and ends < time.time():
                self.forget(job)

    def expires(self, job: Job) -> float | None:
        return None if job.finished is None else self._shelf.ends(job.finished)

    def view(self, job: Job) -> dict:
        """What clients are told of a job."""
        at, told = f"/v1/jobs/{job.id}", asdict(job)
        with self._wake:
            position = self._waiting.index(job) + 1 if job in self._waiting else None
        for name in ("name", "film", "size", "work"):
            told.pop(name)
        stems = {
            name: {"url": f"{at}/stems/{name}", "description": stem["description"],
                   "peak": stem["peak"]}
            for name, stem in job.stems.items()
        }  # fmt: skip
        return {
            **told,
            "position": position,
            "expires": self.expires(job),
            "eta_seconds": self.eta(job),
            "input": {**job.request["input"], "name": job.name},
            "progress": job.progress and asdict(job.progress),
            "video": job.film is not None,
            "stems": stems,
            "report": f"{at}/report.json",
            "labels": f"{at}/labels.txt",
            "zip": f"{at}/all.zip",
        }

    def eta(self, job: Job) -> float | None:
        """Seconds that all of a job takes, by its progress, or by others of its model."""
        if job.ended:
            return job.finished - job.started if job.started else None
        if job.progress and job.progress.seconds_left is not None and job.started:
            return time.time() - job.started + job.progress.seconds_left
        pace = self._paces.get(job.request["model"])
        return job.work / pace if pace else None

    def _left(self, job: Job) -> float | None:
        eta = self.eta(job)
        return None if eta is None else eta - (time.time() - (job.started or time.time()))

    def health(self) -> dict:
        running = self._running[:1]  # for the longest time
        return {
            "model": self._makers[0].model,
            "queue": len(self._waiting),
            "running": running[0].id if running else None,
            "workers": sum(maker.here for maker in self._makers),
        }

    @contextlib.contextmanager
    def watched(self, job: Job) -> Iterator[asyncio.Event]:
        """An event that is set whenever a job changes."""
        event = asyncio.Event()
        job.watchers.add(event)
        try:
            yield event
        finally:
            job.watchers.discard(event)

    async def ended(self, job: Job) -> None:
        """Return when it has ended."""
        with self.watched(job) as event:
            while not job.ended and not job.forgotten:
                if self._stopping:
                    raise Refusal(503, "stopping", "the server is being stopped")
                event.clear()
                if not job.ended:
                    await event.wait()

    def _tell(self, job: Job) -> None:
        """Wake those who watch it, from any thread."""

        def wake() -> None:
            for event in job.watchers:
                event.set()

        with contextlib.suppress(RuntimeError):  # the loop has ended
            if self._loop:
                self._loop.call_soon_threadsafe(wake)

    def _save(self, job: Job) -> None:
        if job.forgotten:
            return
        try:
            write_json(self._shelf.place(job.id) / "job.json", asdict(job))
        except SAMAudioError as error:  # it goes on without
            log.warning("%s cannot be kept: %s", job.id, error)

    def _end(self, job: Job, outcome: Outcome) -> None:
        job.status, job.error, job.finished = outcome.status, outcome.error, time.time()
        self.counts[job.status] += 1
        self._save(job)

    def _run(self, maker: Worker | Other) -> None:
        """What the thread of one that makes jobs does."""
        while (job := self._next(maker)) is not None:
            took = time.perf_counter()
            outcome = maker.make(job, self.folder(job), partial(self._tell, job))
            took = time.perf_counter() - took
            if outcome is None:
                self._again(job, maker)
            else:
                self._ended(job, outcome, took)
            self._tell(job)
        maker.rest()

    def _next(self, maker: Worker | Other) -> Job | None:
        """The job whose turn it is; None at the end."""
        while True:
            with self._wake:
                if self._stopping:
                    return None
                if job := next(filter(maker.takes, self._waiting), None):
                    self._waiting.remove(job)
                    self._running.append(job)
                    job.status, job.started = "running", time.time()
                    self._save(job)
                    break
                woken = self._wake.wait(maker.patience)
            if not woken:
                maker.rest()
        log.info("%s starts with %s", job.id, job.request["model"])
        self._tell(job)
        for other in list(self._waiting):
            self._tell(other)
        return job

    def _again(self, job: Job, maker: Other) -> None:
        """What another process could not make waits for the others, and for this one."""
        with self._wake:
            self._running.remove(job)
            job.status, job.started, job.progress = "queued", None, None
            job.spans, job.predicted = job.request.get("spans", []), False
            job.tried.add(maker)
            if job.forgotten:
                remove(self._shelf.place(job.id))
                return
            self._save(job)
            self._waiting.append(job)
            self._waiting.sort(key=lambda job: job.created)
            self._wake.notify_all()
        for other in list(self._waiting):
            self._tell(other)

    def _ended(self, job: Job, outcome: Outcome, took: float) -> None:
        with self._wake:
            self._running.remove(job)
            job.progress, results = None, dict(outcome.results or {})
            for stage, spent in results.pop("spent", {}).items():
                self.sums[f"stage {stage}"] += spent
            self.sums["evaluations"] += results.pop("evaluations", 0)
            for name, value in results.items():
                setattr(job, name, value)
            if job.forgotten:
                remove(self._shelf.place(job.id))
            else:
                if outcome.status == "done":
                    self._paces[job.request["model"]] = job.work / max(took, 1e-9)
                    self.sums["audio"] += job.seconds
                elif outcome.status == "cancelled" and self._stopping:
                    outcome = Outcome("failed", body(stopped()))
                self._end(job, outcome)
        log.info("%s %s after %.1f s", job.id, outcome.status, took)
