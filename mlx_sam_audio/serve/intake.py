"""Recordings that clients send: streamed to disk, counted, and looked at before they are taken."""

import asyncio
import errno
import re
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from ..errors import SAMAudioError
from ..media import audio, containers, decoding, sound_files, video_files
from .notes import listening, named
from .refusal import Refusal, invalid, no_room
from .shelf import File, Shelf, new_id, write_json

PIECE = 2**20  # bytes written at a time
MOST_FIELDS, MOST_VALUE = 64, 2**16  # of a form beside its file; bytes of each
LONGEST_NAME = 200
CHECKED = 2**25  # decoded bytes after which one looks how much room is left
UNSEEN = ("Cc", "Cs", "Zl", "Zp")  # of characters
MOVING = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # texts about
TYPES = {  # of FFmpeg's demuxers, for browsers; with pictures they are video
    "aac": "audio/aac",
    "aiff": "audio/aiff",
    "flac": "audio/flac",
    "matroska": "audio/webm",
    "mov": "audio/mp4",
    "mp3": "audio/mpeg",
    "ogg": "audio/ogg",
    "wav": "audio/wav",
}
Fields = dict[str, str]


class Form:
    """A multipart form: its file goes to disk as it comes, small fields are kept."""

    def __init__(self, boundary: bytes, path: Path):
        self.fields: Fields = {}
        self.name: str | None = None  # of the file
        self._path, self._file = path, None
        self._header, self._headers, self._value, self._field = b"", {}, bytearray(), None
        self._in_file, self._ended = False, False
        events = (
            "part_begin part_data part_end header_field header_value header_end headers_finished "
            "end"
        )
        calls = {f"on_{event}": getattr(self, f"_{event}") for event in events.split()}
        self._parser = MultipartParser(boundary, calls)

    def write(self, data: bytes) -> None:
        try:
            self._parser.write(data)
        except FormParserError:
            raise invalid("the multipart form is damaged") from None

    def close(self) -> None:
        if self._file:
            self._file.close()

    def check(self) -> None:
        """Raises Refusal for what breaks off."""
        if not self._ended:
            raise invalid("the multipart form breaks off")

    def _part_begin(self) -> None:
        self._header, self._headers, self._value = b"", {}, bytearray()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._header.lower()] = bytes(self._value)
        self._header, self._value = b"", bytearray()

    def _headers_finished(self) -> None:
        told = self._headers.get(b"content-disposition", b"").decode("latin-1")
        _, options = parse_options_header(told)
        self._field = options.get(b"name", b"").decode("utf-8", "replace")
        self._in_file = b"filename" in options
        if self._in_file:
            if self._file or self._field != "file":
                raise invalid('send one file, in the field "file"', "file")
            self.name = options[b"filename"].decode("utf-8", "replace")
            self._file = open(self._path, "wb")
        elif len(self.fields) >= MOST_FIELDS:
            raise invalid(f"a form has at most {MOST_FIELDS} fields")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._file.write(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > MOST_VALUE:
            raise Refusal(413, "too_large", f"a field has at most {MOST_VALUE} bytes", self._field)

    def _part_end(self) -> None:
        if not self._in_file:
            self.fields[self._field] = self._value.decode("utf-8", "replace")

    def _end(self) -> None:
        self._ended = True


async def taken(request: Request, shelf: Shelf, limits) -> tuple[File, Fields]:
    """The recording of a request, raw or in a form, and the form's other fields."""
    check_size(request, shelf, limits.max_upload)
    with shelf.making(id := new_id("f")) as part:
        name, fields = await received(request, part / "content", limits.max_upload)
        gone = threading.Event()
        leaves = asyncio.ensure_future(left(request, gone))
        try:
            async with shelf.looking:
                look = Look(part, name, shelf, limits.max_seconds, gone.is_set)
                file = await run_in_threadpool(look.file, id)
        finally:
            leaves.cancel()
    shelf.files[id] = file
    return file, fields


async def left(request: Request, gone: threading.Event | None = None) -> None:
    """Return, and tell, when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    if gone:
        gone.set()


def check_size(request: Request, shelf: Shelf, most: int) -> None:
    """What the headers promise."""
    told = request.headers.get("content-length", "0")
    size = int(told) if told.isdecimal() else 0
    if size > most:
        raise too_large(most)
    shelf.check_room(size)


def too_large(most: int) -> Refusal:
    return Refusal(413, "too_large", f"this server takes files of up to {most} bytes", "file")


async def received(request: Request, path: Path, most: int) -> tuple[str, Fields]:
    """The client's name of what is now in `path`, and other fields."""
    kind, options = parse_options_header(request.headers.get("content-type"))
    with ExitStack() as stack:
        if kind != b"multipart/form-data":
            file = stack.enter_context(open(path, "wb"))
            await poured(request, file.write, most)
            return clean(request.query_params.get("name")), {}
        try:
            form = Form(options.get(b"boundary", b""), path)
        except FormParserError:
            raise invalid("the multipart form is damaged") from None
        stack.callback(form.close)
        await poured(request, form.write, most)
        form.check()
        if form.name is None:
            raise Refusal(422, "missing", 'there is no file in the field "file"', "file")
        return clean(form.name), form.fields


async def poured(request: Request, write: Callable[[bytes], object], most: int) -> None:
    """Write the request's body, as it comes."""
    held, size = bytearray(), 0
    try:
        async for chunk in request.stream():
            held += chunk
            size += len(chunk)
            if size > most:
                raise too_large(most)
            if len(held) >= PIECE:
                await run_in_threadpool(write, bytes(held))
                held.clear()
        await run_in_threadpool(write, bytes(held))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_room() from None
        raise


def clean(name: str | None) -> str:
    """A client's name of a file, to be shown: without folders, and without what moves a text."""
    last = re.split(r"[/\\]", name or "")[-1]
    last = "".join(c for c in last if c not in MOVING and unicodedata.category(c) not in UNSEEN)
    return last.strip()[-LONGEST_NAME:] or "recording"


@dataclass(frozen=True)
class Look:
    """At what there is in the folder of a file, which gets all that belongs to it. All of the sound
    is decoded once, so that whatever is wrong with it is said now."""

    part: Path
    name: str  # the client's
    shelf: Shelf
    most: float  # seconds
    gone: Callable[[], bool] = lambda: False  # whether nobody waits for it

    @property
    def content(self) -> Path:
        return self.part / "content"

    def file(self, id: str) -> File:
        with listening():
            try:
                told = self._facts()
                self.shelf.check_room(0)
            except Refusal:
                raise
            except SAMAudioError as error:
                if sound_files.disk_is_full(self.part):
                    raise no_room() from None
                text = named(str(error), {self.content: self.name})
                raise Refusal(400, "unreadable", text, "file") from None
        created = time.time()
        size, expires = self.content.stat().st_size, self.shelf.ends(created)
        file = File(id=id, name=self.name, bytes=size, created=created, expires=expires, **told)
        write_json(self.part / "file.json", asdict(file))
        return file

    def _facts(self) -> dict:
        """Of the recording. Where one cannot read it from any sample on, there will be a lane."""
        content, lane = self.content, self.part / "lane.wav"
        with containers.opened(content) as container:
            kind = container.format.name.split(",")[0]
        first, rate, _ = audio.beginning(content)
        channels = first.shape[1]
        sides = "both" if channels > 1 and audio.folds(content) else "mono"
        wide = 1 if sides == "mono" else 2
        header = decoding.plain(content)
        seekable = header is not None and header.format != "FLAC" and channels == wide
        if header is not None:
            header.close()
        with ExitStack() as stack:
            writer = None
            if not seekable:
                writer = sound_files.Writer(lane, lane, rate, int(self.most * rate), wide)
                stack.callback(writer.discard)
            samples = self._decoded(audio.blocks(content, rate, wide), rate, writer)
            if writer:
                writer.close()
        video = pictures(content)
        return dict(
            seconds=samples / rate,
            samples=samples,
            sample_rate=rate,
            channels=channels,
            sides=sides,
            plain=seekable,
            video=video,
            type=type_of(kind, video is not None),
        )

    def _decoded(
        self, blocks: Iterable[np.ndarray], rate: int, writer: sound_files.Writer | None
    ) -> int:
        """How many samples there are; few bytes may hold many."""
        samples, unchecked = 0, 0
        for block in blocks:
            if self.gone():
                raise Refusal(499, "left", "nobody waits for the answer")
            samples += block.shape[-1]
            if samples > self.most * rate:
                text = f"the file lasts longer than the {self.most:g} s that this server takes"
                raise Refusal(413, "too_long", text, "file")
            if writer:
                writer.write(block)
                unchecked += block.nbytes
                if unchecked > CHECKED:
                    self.shelf.check_room(0)
                    unchecked = 0
        return samples


def type_of(kind: str, video: bool) -> str:
    """For browsers, which are told of nothing that could be a page."""
    found = TYPES.get(kind, "application/octet-stream")
    return found.replace("audio/", "video/") if video else found


def pictures(content: Path) -> dict | None:
    """The size of a video's pictures, upright; None of a sound."""
    try:
        for _, frame in video_files.decoded(content):
            _, height, width = video_files.rgb(frame).shape
            return {"width": width, "height": height}
    except SAMAudioError:
        pass
    return None


def example(shelf: Shelf) -> tuple[File, str]:
    """The demo's mixture as if it were uploaded, and what to ask for."""
    from ..demo import example, sounds

    mixture, (wanted, *_) = example.scene().sum(0), example.SCENE.values()
    shelf.check_room(2 * mixture.nbytes)
    with shelf.making(id := new_id("f")) as part:
        written = part / "example.wav"
        sound_files.write(written, mixture, sounds.SAMPLE_RATE)
        written.rename(part / "content")
        file = Look(part, f"{' and '.join(example.SCENE)}.wav", shelf, 2 * example.SECONDS).file(id)
    shelf.files[id] = file
    return file, wanted
