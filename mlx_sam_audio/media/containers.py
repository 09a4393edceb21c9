"""Containers of sound and pictures, opened through PyAV: single local files of known formats."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import DEAF, SAMAudioError
from ..files import existing
from ..kinds import is_text

# FFmpeg's demuxers; none of them opens another file, as playlists and numbered pictures do
FORMATS = (
    *("3g2", "aac", "ac3", "aiff", "amr", "ape", "asf", "au", "avi", "caf", "dss", "dts", "dv"),
    *("eac3", "flac", "flv", "loas", "matroska", "mov", "mp3", "mpc", "mpc8", "mpeg", "mpegts"),
    *("mpegvideo", "mxf", "ogg", "rm", "tak", "tta", "voc", "w64", "wav", "webm", "wv"),
    *(f"{kind}_pipe" for kind in ("bmp", "gif", "jpeg", "pgm", "png", "ppm", "tiff", "webp")),
    *("apng", "gif"),
)
ALLOWED = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "none"}
LIMITS = {"max_pixels": str(2**26)}  # of a frame: a few bytes of header can ask for gigabytes
TAGS = ("title", "artist", "album", "date", "genre", "comment", "copyright", "track")
LONGEST = 2000  # characters of a tag; in a wav, libsndfile drops what follows some 30 kB
SYNONYMS = {"author": "artist"}  # aiff


class Unnamed:
    """A file without its name, from which FFmpeg would guess formats and protocols."""

    def __init__(self, file):
        self.read, self.write, self.tell, self._seek = file.read, file.write, file.tell, file.seek

    def seek(self, position: int, whence: int = 0) -> int:
        try:
            return self._seek(position, whence)
        except (OSError, ValueError):  # a header points outside the file
            return -1


DEAF.add(Unnamed.seek.__code__)


def container(file, mode: str = "r", **options):
    """A PyAV container in an open file."""
    import av

    # titles in other alphabets than UTF-8 are kept as they are, which PyAV 19 does by itself
    if int(av.__version__.split(".")[0]) < 19:
        options["metadata_errors"] = "surrogateescape"
    return av.open(Unnamed(file), mode, **options)


@contextlib.contextmanager
def reading(path: str | Path) -> Iterator:
    """PyAV, whose errors are about `path`."""
    import av

    try:
        yield av
    except (OSError, av.FFmpegError) as error:
        raise SAMAudioError(f"cannot read {path}: {error.strerror or error}") from None


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator:
    """A PyAV container to read from."""
    with reading(path) as av, open(existing(path), "rb") as file:
        # cameras put more behind a picture, with which FFmpeg does not recognise it
        picture = "jpeg_pipe" if file.read(3) == b"\xff\xd8\xff" else None
        file.seek(0)
        try:
            # as `options`, they would overwrite memory in PyAV before 18
            source = container(file, format=picture, container_options=ALLOWED)
        except av.FFmpegError as error:
            if error.errno != errno.EINVAL and not isinstance(error, av.InvalidDataError):
                raise
            raise SAMAudioError(
                f"cannot read {path}: it is no sound, picture or video in a file of its own"
            ) from None
        with source:
            for stream in source.streams:
                if stream.codec_context is not None:
                    stream.codec_context.options = LIMITS
            yield source


def audible(container, path: Path):
    """The stream that is heard."""
    for stream in container.streams.audio:
        codec = stream.codec_context
        if codec is None or not (codec.sample_rate and codec.channels):
            raise SAMAudioError(f"{path} holds sound in a format that cannot be decoded")
        return stream
    raise SAMAudioError(f"{path} has no sound")


def tags(path: str | Path) -> dict[str, str]:
    """Title, artist, album, date, genre, comment, copyright and track of a file, if it tells."""
    with opened(path) as source:
        told = source.metadata or audible(source, Path(path)).metadata
        texts = {key.lower(): legible(text)[:LONGEST] for key, text in told.items()}
    texts = {SYNONYMS.get(key, key): text for key, text in texts.items()}
    return {key: texts[key] for key in TAGS if texts.get(key)}


def legible(text: str) -> str:
    """Text that is no UTF-8 is what Windows writes, most often."""
    return text if is_text(text) else os.fsencode(text).decode("cp1252", "replace")
