"""What makes jobs: a process with one model at a time."""

import gc
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx

from ..engine import memory
from ..engine.progress import Progress
from ..errors import Cancelled, SAMAudioError
from ..media import sound_files
from ..model import SAMAudio
from ..ranking import rank
from ..span_predictor import to_json
from . import work
from .catalogue import Catalogue
from .job import Job
from .notes import listening, named
from .refusal import Refusal, body, no_room

log = logging.getLogger("mlx_sam_audio.server")


class Outcome(NamedTuple):
    """How a job ended: "done", "failed" or "cancelled"; why; and what it tells of its results."""

    status: str
    error: dict | None = None
    results: dict | None = None


class Worker:
    """This process. limit: bytes that a job may take; idle: seconds after which a model is
    unloaded."""

    here = True

    def __init__(self, catalogue: Catalogue, limit: int | None, idle: float | None):
        self._catalogue, self._limit, self._idle = catalogue, limit, idle
        self._model: tuple[str, SAMAudio] | None = None

    @property
    def model(self) -> str | None:
        """The one that is loaded."""
        return self._model[0] if self._model else None

    @property
    def patience(self) -> float | None:
        """Seconds without a job after which it rests."""
        return self._idle if self._model else None

    def takes(self, job: Job) -> bool:
        return True

    def rest(self) -> None:
        """Unload the model."""
        if self._model:
            log.info("%s is unloaded", self.model)
            self._model = None
            rank.loaded.cache_clear()
            gc.collect()
            mx.clear_cache()

    def make(self, job: Job, folder: Path, tell: Callable[[], object]) -> Outcome:
        """Do a job, whose folder this is. tell: is called whenever the job has changed."""
        names = {folder / "input": job.name, folder / "film": job.name}
        with listening() as notes:
            try:
                return Outcome("done", None, self._make(job, folder, tell))
            except Cancelled:
                return Outcome("cancelled")
            except SAMAudioError as error:
                if sound_files.disk_is_full(folder):
                    return Outcome("failed", body(no_room()))
                text = re.sub(re.escape(f"{folder}/"), "", named(str(error), names))
                return Outcome("failed", body(SAMAudioError(text)))
            except Exception as error:  # noqa: BLE001 - the worker goes on with the next one
                log.error("%s failed", job.id, exc_info=error)
                short = isinstance(error, MemoryError)
                text = (
                    "memory ran out" if short else "this is a bug of the server: its log has more"
                )
                return Outcome("failed", body(Refusal(500, "internal", f"the job failed: {text}")))
            finally:
                told = (named(note, names).replace(f"{folder}/", "") for note in notes)
                job.notes += [note for note in told if note not in job.notes]

    def _make(self, job: Job, folder: Path, tell: Callable[[], object]) -> dict:
        def at(progress: Progress) -> None:
            job.progress = progress
            tell()

        def found(spans: list) -> None:
            rows = list(map(to_json, spans))
            job.spans = rows if "descriptions" in job.request else rows[0]
            job.predicted = True

        request, cancel = job.request, job.stop.is_set
        limit = request["max_memory"] or self._limit
        model = self._loaded(request["model"])
        with memory.wired(limit):
            if job.kind == "spans":
                return work.spans(folder, request, job.name, model, at, cancel)
            film = folder / job.film if job.film else None
            return work.separate(folder, request, job.name, film, model, at, cancel, found)

    def _loaded(self, name: str) -> SAMAudio:
        """The model, instead of any other."""
        if self.model != name:
            self.rest()
            self._model = name, SAMAudio.from_pretrained(self._catalogue.find(name).folder)
        return self._model[1]
