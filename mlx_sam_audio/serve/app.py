"""The routes: what a request asks for, found on the shelf or among the jobs."""

import asyncio
import contextlib
import json
import logging
import threading
import zipfile
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from importlib import resources
from pathlib import Path

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from .. import __version__
from ..errors import SAMAudioError
from ..files import whole
from ..media import audio, sound_files, video_files
from ..prompts import Span
from ..span_predictor import to_labels
from . import intake, lanes, requests
from .catalogue import Catalogue
from .job import Job
from .notes import listening, named
from .queue import Queue
from .refusal import Refusal, answer
from .shelf import Shelf, own

log = logging.getLogger("mlx_sam_audio.server")
PATIENCE = 5.0  # seconds after which events say that nothing is new
MEDIA = {".wav": "audio/wav", ".flac": "audio/flac", ".mp4": "video/mp4"}
WEB = Path(str(resources.files(__package__) / "web"))
METRICS = (  # name, kind, what it is
    ("jobs_total", "counter", "Jobs that have ended, by how."),
    ("queue_length", "gauge", "Jobs that wait."),
    ("stage_seconds_total", "counter", "Seconds of work, by stage."),
    ("audio_seconds_total", "counter", "Seconds of recordings that were separated."),
    ("evaluations_total", "counter", "Evaluations of the network on a window."),
    ("peak_memory_bytes", "gauge", "The most memory that MLX held."),
    ("active_memory_bytes", "gauge", "What it holds now."),
)


@dataclass(frozen=True)
class Limits:
    """What a server takes."""

    max_upload: int
    max_seconds: float
    max_memory: int | None


class Site:
    """The answers."""

    def __init__(self, shelf: Shelf, queue: Queue, catalogue: Catalogue, limits: Limits):
        self.shelf, self.queue, self.catalogue, self.limits = shelf, queue, catalogue, limits
        self._asking = threading.Lock()  # the plan of a model is for one at a time

    # what is there

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", **self.queue.health(), "version": __version__})

    async def models(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self.catalogue.view))

    async def openapi(self, request: Request) -> Response:
        text = resources.files(__package__).joinpath("openapi.json").read_text()
        return Response(text, media_type="application/json")

    async def metrics(self, request: Request) -> Response:
        import mlx.core as mx

        queue, sums = self.queue, self.queue.sums
        stages = {name: sums[name] for name in sums if name.startswith("stage ")}
        rows = {
            "jobs_total": {f'{{status="{k}"}}': n for k, n in queue.counts.items()},
            "queue_length": {"": queue.health()["queue"]},
            "stage_seconds_total": {
                f'{{stage="{name.removeprefix("stage ")}"}}': round(value, 3)
                for name, value in stages.items()
                if name != "stage total"
            },
            "audio_seconds_total": {"": round(sums["audio"], 3)},
            "evaluations_total": {"": sums["evaluations"]},
            "peak_memory_bytes": {"": mx.get_peak_memory()},
            "active_memory_bytes": {"": mx.get_active_memory()},
        }
        lines = []
        for name, kind, said in METRICS:
            full = f"sam_audio_{name}"
            lines += [f"# HELP {full} {said}", f"# TYPE {full} {kind}"]
            lines += [f"{full}{label} {value}" for label, value in rows[name].items()]
        return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")

    async def page(self, request: Request) -> Response:
        return FileResponse(WEB / "index.html", headers={"Cache-Control": "no-cache"})

    # files

    async def upload(self, request: Request) -> Response:
        file, _ = await intake.taken(request, self.shelf, self.limits)
        log.info("%s has %.1f s", file.id, file.seconds)
        return created(f"/v1/files/{file.id}", file.view(), 201)

    async def example(self, request: Request) -> Response:
        file, text = await run_in_threadpool(intake.example, self.shelf)
        return created(f"/v1/files/{file.id}", {**file.view(), "description": text}, 201)

    async def files(self, request: Request) -> Response:
        found = sorted(self.shelf.files.values(), key=lambda file: -file.created)
        return JSONResponse({"data": [file.view() for file in found]})

    async def file(self, request: Request) -> Response:
        file = self.shelf.file(request.path_params["id"])
        if request.method == "DELETE":
            await run_in_threadpool(self.shelf.forget, file.id)
            return Response(status_code=204)
        return JSONResponse(file.view())

    async def content(self, request: Request) -> Response:
        file = self.shelf.file(request.path_params["id"])
        return sent(request, self.shelf.content(file), file.type, file.name)

    async def frame(self, request: Request) -> Response:
        file = self.shelf.file(request.path_params["id"])
        if not file.video:
            raise Refusal(400, "no_video", "the file has no pictures", "id")
        at = lanes.number(request.query_params, "t", 0.0, 1e6)
        path = self.shelf.content(file)
        with named_errors({path: file.name}):
            _, pixels = await run_in_threadpool(video_files.frame_at, path, at)
        return Response(await run_in_threadpool(png, pixels), media_type="image/png")

    # jobs

    async def ask(self, request: Request) -> Response:
        values = requests.parse(await body_of(request))
        job = await run_in_threadpool(self.asked, values)
        return created(f"/v1/jobs/{job.id}", self.queue.view(job), 202)

    def asked(self, values: dict) -> Job:
        """A new job from its JSON."""
        requests.check_only(values, {*requests.FIELDS})
        source = self.queue.source(values.get("input"))
        model = self.catalogue.find(values.get("model"))
        names = dict.fromkeys((source.path, source.lane), source.name)
        with self._asking, listening() as notes, named_errors(names):
            wanted = requests.wanted(values, source, model, self.limits.max_memory)
            del notes[:]  # they come again when it runs
            return self.queue.add(wanted)

    async def jobs(self, request: Request) -> Response:
        return JSONResponse({"data": [self.queue.view(job) for job in self.queue.all()]})

    async def job(self, request: Request) -> Response:
        job = self.queue.job(request.path_params["id"])
        if request.method == "DELETE":
            await run_in_threadpool(self.queue.forget, job)
            return Response(status_code=204)
        if request.method == "PATCH":
            values = requests.parse(await body_of(request))
            requests.check_only(values, {"title"})
            self.queue.rename(job, requests.title_of(values))
        return JSONResponse(self.queue.view(job))

    async def cancel(self, request: Request) -> Response:
        job = self.queue.job(request.path_params["id"])
        await run_in_threadpool(self.queue.cancel, job)
        return JSONResponse(self.queue.view(job))

    async def events(self, request: Request) -> Response:
        job = self.queue.job(request.path_params["id"])
        if job.ended and request.headers.get("last-event-id") == "end":
            return Response(status_code=204)  # which tells a browser that there is no more
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        return StreamingResponse(self._events(job), media_type="text/event-stream")

    async def _events(self, job: Job) -> AsyncIterator[str]:
        """The job as it is, and then what changes, as long as it goes on."""
        number, queue = 0, self.queue
        with queue.watched(job) as event:
            yield said("state", queue.view(job), number)
            seen, spans = job.progress, job.spans
            while not (job.ended or job.forgotten or queue.stopping):
                event.clear()
                try:
                    await asyncio.wait_for(event.wait(), PATIENCE)
                except asyncio.TimeoutError:
                    yield ": nothing new\n\n"
                    continue
                number += 1
                if job.spans != spans:
                    spans = job.spans
                    yield said("spans", {"spans": spans, "predicted": job.predicted}, number)
                elif job.progress is not seen and job.progress is not None:
                    seen = job.progress
                    yield said("progress", asdict(seen), number)
                elif not job.ended:
                    yield said("state", queue.view(job), number)
            if job.ended:
                yield said(job.status, queue.view(job), "end")

    # stems

    async def stem(self, request: Request) -> Response:
        """A stem as a file; its name ends in a format."""
        name, dot, suffix = request.path_params["stem"].rpartition(".")
        job = self.queue.job(request.path_params["id"])
        if f"{dot}{suffix}" not in MEDIA:
            text = "stems are a .wav, a .flac and, of a video, an .mp4"
            raise Refusal(404, "not_found", text)
        path = self.queue.stem(job, name).with_suffix(f".{suffix}")
        if not path.exists():
            async with job.making:
                if not path.exists():
                    with named_errors({path.parent: job.name}):
                        await run_in_threadpool(self._make, job, name, path)
        title = f"{Path(job.name).stem}.{job.stems[name]['slug']}.{suffix}"
        return sent(request, path, MEDIA[path.suffix], title)

    def _make(self, job: Job, name: str, path: Path) -> None:
        """A stem in another format, turned down as all that belong to it."""
        sound = path.with_suffix(".wav")
        loudest = max(stem["peak"] for stem in job.stems.values())
        blocks = audio.blocks(sound, job.sample_rate, job.channels)
        with listening(), whole(path) as (part,):
            if path.suffix == ".mp4":
                if job.film is None:
                    raise Refusal(404, "no_video", "the job's input has no pictures")
                film = path.parent / job.film
                video_files.check(path, job.sample_rate)
                video_files.write(film, blocks, job.sample_rate, part, path, loudest, job.channels)
                return
            sound_files.check(path, job.sample_rate)
            writer = sound_files.Writer(part, path, job.sample_rate, 0, job.channels)
            try:
                for block in blocks:
                    writer.write(block)
                writer.close(loudest)
            finally:
                writer.discard()

    async def report(self, request: Request) -> Response:
        job = self._done(request)
        path = self.queue.folder(job) / "report.json"
        return sent(request, path, "application/json", f"{Path(job.name).stem}.report.json")

    async def labels(self, request: Request) -> Response:
        job = self._done(request)
        response = PlainTextResponse(labels_of(job))
        if request.query_params.get("download"):
            response.headers["Content-Disposition"] = 'attachment; filename="labels.txt"'
        return response

    async def zipped(self, request: Request) -> Response:
        job = self._done(request)
        path = self.queue.folder(job) / "all.zip"
        async with job.making:
            if not path.exists():
                await run_in_threadpool(self._zip, job, path)
        return sent(request, path, "application/zip", f"{Path(job.name).stem}.zip", always=True)

    def _zip(self, job: Job, path: Path) -> None:
        folder, first = path.parent, Path(job.name).stem
        self.shelf.check_room(sum((folder / f"{name}.wav").stat().st_size for name in job.stems))
        with whole(path) as (part,), zipfile.ZipFile(part, "w") as file:
            for name, stem in job.stems.items():
                file.write(folder / f"{name}.wav", f"{first}.{stem['slug']}.wav")
            file.write(folder / "report.json", "report.json")
            file.writestr("labels.txt", labels_of(job))

    def _done(self, request: Request) -> Job:
        job = self.queue.job(request.path_params["id"])
        if job.status != "done":
            raise Refusal(409, "not_done", f"the job is {job.status}: there is no result")
        return job

    # lanes

    def _lane(self, request: Request) -> tuple[Path, lanes.Range]:
        """The sound that a path names, and the seconds that the query asks for."""
        found, query = request.path_params, request.query_params
        if "stem" in found:
            path = self.queue.stem(self.queue.job(found["id"]), found["stem"])
        else:
            path = self.shelf.lane(self.shelf.file(found["id"]))
        start, end = (lanes.number(query, name, None, 1e9) for name in ("from", "to"))
        return path, lanes.stretch(path, start, end)

    async def peaks(self, request: Request) -> Response:
        path, part = self._lane(request)
        points = lanes.whole_number(request.query_params, "points", 1200, lanes.MOST_POINTS)
        return JSONResponse(await run_in_threadpool(lanes.peaks, path, part, points))

    async def spectrogram(self, request: Request) -> Response:
        path, part = self._lane(request)
        columns = lanes.whole_number(request.query_params, "columns", 1200, lanes.MOST_COLUMNS)
        top = lanes.number(request.query_params, "top", None, 1000.0)
        made = await run_in_threadpool(lanes.spectrogram, path, part, columns, top)
        return Response(made[0], headers=made[1], media_type="application/octet-stream")

    async def pcm(self, request: Request) -> Response:
        path, part = self._lane(request)
        made = await run_in_threadpool(lanes.samples, path, part)
        return Response(made[0], headers=made[1], media_type="application/octet-stream")


def created(place: str, values: dict, status: int) -> Response:
    return JSONResponse(values, status, {"Location": place})


def sent(request: Request, path: Path, kind: str, name: str, always: bool = False) -> FileResponse:
    """A file, or the range of it that is asked for. Its name is for who saves it."""
    saved = always or request.query_params.get("download")
    own(path)
    how = "attachment" if saved else "inline"
    return FileResponse(path, media_type=kind, filename=name, content_disposition_type=how)


@contextlib.contextmanager
def named_errors(names: dict[Path, str]):
    """Errors of the package say the clients' names."""
    try:
        yield
    except SAMAudioError as error:
        error.args = (named(str(error), names),)
        raise


async def body_of(request: Request) -> bytes:
    """The JSON of a request, which is short."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip()
    if kind.lower() != "application/json":
        raise Refusal(415, "kind", "a request's body is application/json")
    held = bytearray()
    async for chunk in request.stream():
        held += chunk
        if len(held) > requests.MOST_BODY:
            text = f"a request has at most {requests.MOST_BODY} bytes"
            raise Refusal(413, "too_large", text)
    return bytes(held)


def said(event: str, values: dict, number: int | str) -> str:
    """One event of a stream of them."""
    return f"id: {number}\nevent: {event}\ndata: {json.dumps(values)}\n\n"


def labels_of(job: Job) -> str:
    """A label track of Audacity: the spans, and where the sound seems to be absent."""
    several = "descriptions" in job.request
    texts = job.request["descriptions"] if several else [job.request["description"]]
    lines = []
    for text, spans in zip(texts, job.spans if several else [job.spans], strict=True):
        for sign, start, end in spans:
            label = f"{'-' if sign == '-' else ''}{text or job.name}"
            lines.append(to_labels([Span(sign, start, end)], label))
    return "".join(lines)


def png(pixels: np.ndarray) -> bytes:
    """A picture (3, H, W) uint8 as a file."""
    import av

    rows = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    codec = av.CodecContext.create("png", "w")
    codec.height, codec.width, _ = rows.shape
    codec.pix_fmt, codec.time_base = "rgb24", Fraction(1)
    packets = codec.encode(av.VideoFrame.from_ndarray(rows, format="rgb24")) + codec.encode(None)
    return b"".join(map(bytes, packets))


async def on_error(request: Request, error: Exception) -> Response:
    return answer(error)


async def on_http(request: Request, error: HTTPException) -> Response:
    """What the router says of paths and methods."""
    code, text = {
        404: ("not_found", "there is nothing at this address: /openapi.json lists what there is"),
        405: ("method", f"this address takes no {request.method[:20]}"),
    }.get(error.status_code, ("invalid", str(error.detail)))
    return answer(Refusal(error.status_code, code, text, **(error.headers or {})))


async def on_bug(request: Request, error: Exception) -> Response:
    return answer(Refusal(500, "internal", "this is a bug of the server: its log has more"))


async def on_leave(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


def routes(site: Site, page: bool) -> list:
    """All of them. page: whether the page is among them."""
    from . import compatible

    lane = {name: getattr(site, name) for name in ("peaks", "spectrogram", "pcm")}
    a_file, a_job = "/v1/files/{id}", "/v1/jobs/{id}"
    found: list = [
        Route("/health", site.health),
        Route("/metrics", site.metrics),
        Route("/openapi.json", site.openapi),
        Route("/v1/models", site.models),
        Route("/v1/files", site.files, methods=["GET"]),
        Route("/v1/files", site.upload, methods=["POST"]),
        Route("/v1/files/example", site.example, methods=["POST"]),
        Route(a_file, site.file, methods=["GET", "DELETE"]),
        Route(f"{a_file}/content", site.content),
        Route(f"{a_file}/frame", site.frame),
        *(Route(f"{a_file}/{name}", call) for name, call in lane.items()),
        Route("/v1/jobs", site.jobs, methods=["GET"]),
        Route("/v1/jobs", site.ask, methods=["POST"]),
        Route(a_job, site.job, methods=["GET", "PATCH", "DELETE"]),
        Route(f"{a_job}/cancel", site.cancel, methods=["POST"]),
        Route(f"{a_job}/events", site.events),
        Route(f"{a_job}/report.json", site.report),
        Route(f"{a_job}/labels.txt", site.labels),
        Route(f"{a_job}/all.zip", site.zipped),
        Route(f"{a_job}/stems/{{stem}}", site.stem),
        *(Route(f"{a_job}/stems/{{stem}}/{name}", call) for name, call in lane.items()),
        Route("/v1/audio/separations", compatible.route(site), methods=["POST"]),
    ]
    if page:
        found += [Route("/", site.page), Mount("/web", StaticFiles(directory=WEB, check_dir=False))]
    return found


def application(site: Site, page: bool = True) -> Starlette:
    handlers: dict[type[Exception] | int, Callable] = {
        SAMAudioError: on_error,
        HTTPException: on_http,
        ClientDisconnect: on_leave,
        Exception: on_bug,
    }
    made = Starlette(routes=routes(site, page), exception_handlers=handlers)
    made.router.redirect_slashes = False
    return made


async def tidy(queue: Queue, every: float) -> None:
    """Forget what expires, now and then."""
    while True:
        await asyncio.sleep(every)
        try:
            await run_in_threadpool(queue.expire)
        except OSError as error:
            log.warning("cannot remove what has expired: %s", error)
