"""Containers of sound and pictures, opened through PyAV: single local files of known formats."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from .errors import SAMAudioError
from .files import existing

# FFmpeg's demuxers; none of them opens another file, as playlists and numbered pictures do
FORMATS = (
    *("3g2", "aac", "ac3", "aiff", "amr", "ape", "asf", "au", "avi", "caf", "dts", "eac3", "flac"),
    *("flv", "loas", "matroska", "mov", "mp3", "mpeg", "mpegts", "mpegvideo", "ogg", "tak", "tta"),
    *("w64", "wav", "webm", "wv"),
    *(f"{kind}_pipe" for kind in ("bmp", "gif", "jpeg", "png", "tiff", "webp")),
    *("apng", "gif"),
)


class Unnamed:
    """A file without its name, from which FFmpeg would guess formats and other files' names."""

    def __init__(self, file):
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


@contextlib.contextmanager
def reading(path: str | Path) -> Iterator:
    """PyAV, whose errors are about `path`."""
    import av

    try:
        yield av
    except av.FFmpegError as error:
        raise SAMAudioError(f"cannot read {path}: {error.strerror or error}") from None
    except OSError as error:
        raise SAMAudioError(f"cannot read {path}: {error.strerror or error}") from None


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator:
    """A PyAV container to read from."""
    with reading(path) as av, open(existing(path), "rb") as file:
        # titles in other alphabets than UTF-8: PyAV 19 replaces what it cannot read by itself
        old = int(av.__version__.split(".")[0]) < 19
        options = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "none"}
        keywords = {"metadata_errors": "replace"} if old else {}
        with av.open(Unnamed(file), options=options, **keywords) as container:
            yield container
