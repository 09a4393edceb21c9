"""mlx-audio's route: a form in, both stems of 16 bits out, in one answer."""

import asyncio
import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import soundfile
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from ..errors import SAMAudioError, shown
from . import intake, requests
from .job import Job
from .refusal import Refusal, body, invalid

DEFAULTS = {"description": "speech", "method": "midpoint", "steps": "16"}  # mlx-audio's
MODEL = "mlx-community/sam-audio-large-fp16"
NAMED = re.compile(r"(?:mlx-community|facebook)/sam-audio-(small|base|large)(-tv)?(?:-\w+)?")
FORMATS = ("json", "wav", "zip")


def route(site):
    """The endpoint of a site."""

    async def separations(request: Request) -> Response:
        try:
            return await separated(request)
        except SAMAudioError as error:
            return with_detail(error)

    async def separated(request: Request) -> Response:
        site.queue.check_length()
        kind = request.headers.get("content-type", "")
        if not kind.lower().startswith("multipart/form-data"):
            raise Refusal(422, "missing", 'there is no file in the field "file"', "file")
        file, form = await intake.taken(request, site.shelf, site.limits)
        try:
            values = {"input": {"file": file.id}, **asked(form, site.catalogue)}
            job = await run_in_threadpool(site.asked, values)
        finally:
            site.shelf.forget(file.id)  # the job has its own
        answers = form.get("response_format", "json")
        kept = False
        try:
            await until_ended(request, site.queue, job)
            response = await made(site, job, answers)
            kept = answers != "json"
            return response
        finally:
            if not kept:
                site.queue.forget(job)

    return separations


def with_detail(error: SAMAudioError) -> Response:
    """The same as mlx-audio says it, too."""
    told, status = body(error), getattr(error, "status", 400)
    detail: object = told["message"]
    if status == 422:
        detail = [{"type": told["code"], "loc": ["body", told["param"]], "msg": told["message"]}]
    headers = getattr(error, "headers", None)
    return JSONResponse({"error": told, "detail": detail}, status, headers)


def asked(form: dict[str, str], catalogue) -> dict:
    """The same as a job's JSON. Fields that nobody knows are left out, as mlx-audio does."""
    if form.get("response_format", "json") not in FORMATS:
        text = f"response_format is {', '.join(FORMATS)}"
        raise invalid(text, "response_format")
    given = {**DEFAULTS, **form}
    if "quality" in form:  # instead of mlx-audio's solver
        given = {"description": DEFAULTS["description"], **form}
    texts = ("description", "method", "quality")
    values: dict[str, object] = {name: given[name] for name in texts if name in given}
    values |= {name: whole(given[name], name) for name in ("steps", "seed") if name in given}
    values |= {"model": model_of(form.get("model", MODEL), catalogue)}
    values |= {"stereo": form.get("stereo", "mono")}
    if "spans" in form:
        try:
            values["spans"] = requests.parse(f'{{"spans": {form["spans"]}}}'.encode()).get("spans")
        except Refusal:
            text = f"spans are JSON, not {shown(form['spans'])}"
            raise invalid(text, "spans") from None
    if form.get("subtract", "").lower() in ("1", "true", "on", "yes"):
        values["residual"] = "subtract"
    return values


def whole(text: str, name: str) -> int:
    if not re.fullmatch(r"\s*-?\d{1,30}\s*", text):
        raise invalid(f"{name} is a whole number, not {text[:60]!r}", name)
    return int(text)


def model_of(name: str, catalogue) -> str:
    """What mlx-audio calls a model, by the name that it has here."""
    installed = {one.id for one in catalogue.all()}
    match = NAMED.fullmatch(name)
    if name in installed or match is None:
        return name
    shelved = name.replace("/", "--")
    return shelved if shelved in installed else match[1] + (match[2] or "")


async def until_ended(request: Request, queue, job: Job) -> None:
    """Wait for the job, unless the client goes, with whom it is cancelled. Raises Refusal."""
    waits = asyncio.ensure_future(queue.ended(job))
    leaves = asyncio.ensure_future(intake.left(request))
    try:
        await asyncio.wait([waits, leaves], return_when=asyncio.FIRST_COMPLETED)
        if not waits.done():
            raise Refusal(499, "left", "nobody waits for the answer")
        await waits
    finally:
        for task in (waits, leaves):
            task.cancel()
    if job.status != "done":
        text = job.error["message"] if job.error else f"the job was {job.status}"
        status = 500 if job.error and job.error["type"] == "server_error" else 400
        raise Refusal(status, job.status, text)


async def made(site, job: Job, form: str) -> Response:
    """The answer in a form."""
    folder, at = site.queue.folder(job), f"/v1/jobs/{job.id}"
    paths = {name: folder / f"{name}.wav" for name in ("target", "residual")}
    if form == "json":
        sounds = {name: await run_in_threadpool(encoded, path) for name, path in paths.items()}
        return JSONResponse({**sounds, "sample_rate": job.sample_rate})
    stems = {name: f"{at}/stems/{name}.wav" for name in paths}
    headers = {
        "X-Audio-Stems": json.dumps(stems),
        "Link": f'<{stems["residual"]}>; rel="related"; title="residual"',
        "Content-Location": stems["target"] if form == "wav" else f"{at}/all.zip",
    }
    if form == "wav":
        return FileResponse(paths["target"], media_type="audio/wav", headers=headers)
    path = folder / "all.zip"
    await run_in_threadpool(site._zip, job, path)
    return FileResponse(path, media_type="application/zip", headers=headers)


def encoded(path: Path) -> str:
    """A wav of 16 bits, clipped at full scale, in base64."""
    out = io.BytesIO()
    with soundfile.SoundFile(path) as file:
        form = dict(samplerate=file.samplerate, channels=file.channels, subtype="PCM_16")
        with soundfile.SoundFile(out, "w", format="WAV", **form) as made:
            while len(block := file.read(2**18, dtype="float32", always_2d=True)):
                made.write(np.clip(block, -1, 1))
    return base64.b64encode(out.getbuffer()).decode()
