"""Repos of the Hugging Face hub: what they hold, and their files, one by one."""

import contextlib
import io
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import SAMAudioError, plain
from ..files import reason

PLACE = re.compile(r"([^/@~.][^/@]*/[^/@]+)(?:@([^/]+))?(?:/([^@]+\.(?:safetensors|pt)))?")
PLAIN = re.compile(r"(?!\.{1,2}(/|$))[^/\\:\0]{1,200}(/(?!\.{1,2}(/|$))[^/\\:\0]{1,200})*")
LARGE = 10 * 2**20  # bytes of a file whose download is told
PATIENCE = 30.0  # seconds without an answer


class Place(NamedTuple):
    """owner/name, perhaps @revision, perhaps /FILE."""

    repo: str
    revision: str | None
    file: str | None


def place(name: str) -> Place | None:
    """What the name of a place on the hub says; None if it is none."""
    match = PLACE.fullmatch(name)
    return Place(*match.groups()) if match else None


class Listed(NamedTuple):
    """What the hub tells of a file."""

    size: int
    sha256: str | None  # of large ones


class Repo:
    """A repo at a commit. Raises SAMAudioError.

    files: what the hub lists, or what is in its cache where nothing answers; the names of others
    than plain files are left out. folder: of this commit in the hub's cache.
    """

    def __init__(self, name: str, revision: str | None = None):
        from huggingface_hub import HfApi, constants
        from huggingface_hub.file_download import repo_folder_name

        self.name, self.asked, self._pinned = name, revision, False
        try:
            with said(name, revision):
                inner = repo_folder_name(repo_id=name, repo_type="model")
                cache = Path(constants.HF_HUB_CACHE, inner)
                info = HfApi().model_info(
                    name, revision=revision, files_metadata=True, timeout=PATIENCE
                )
        except Unreached:
            self.reached, self.commit = False, cached(cache, revision)
            self.folder = cache / "snapshots" / str(self.commit)
            if not self.folder.is_dir():
                raise
            found = (path for path in self.folder.rglob("*") if path.is_file())
            self.files = {
                str(path.relative_to(self.folder)): Listed(path.stat().st_size, None)
                for path in found
            }
            return
        self.reached, self.commit = True, info.sha
        self.folder = cache / "snapshots" / self.commit
        self.files = {
            file.rfilename: Listed(file.size or 0, file.lfs["sha256"] if file.lfs else None)
            for file in info.siblings or ()
            if PLAIN.fullmatch(file.rfilename)
        }

    def get(self, name: str) -> Path:
        """A file in the hub's cache, downloaded if it is not there."""
        from huggingface_hub import hf_hub_download

        path = self.folder / name
        if path.is_file():
            return path
        if name not in self.files:
            raise SAMAudioError(f"{self.name} holds no {name}{self.unreached}")
        size = self.files[name].size
        if size > LARGE:
            self._check_space(size)
            say(f"downloading {size / 1e9:.2g} GB: {name} of {self.name}")
        with said(self.name, self.asked), bars(size > LARGE):
            # once by the name of the revision, by which the cache finds it again
            revision = self.commit if self._pinned else self.asked
            found = Path(hf_hub_download(self.name, name, revision=revision))
        if found != path:
            raise SAMAudioError(f"{self.name} has changed while it was read: try again")
        self._pinned = True
        return path

    def read(self, name: str, start: int, size: int) -> bytes:
        """Some bytes of a file, which is not downloaded for them."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

        if not size:
            return b""
        url = hf_hub_url(self.name, name, revision=self.commit)
        headers = {**build_hf_headers(), "Range": f"bytes={start}-{start + size - 1}"}
        with said(self.name, self.asked):
            again = dict(max_retries=3, retry_on_status_codes=(500, 502, 503, 504))
            answer = http_backoff("GET", url, headers=headers, timeout=PATIENCE, **again)
            hf_raise_for_status(answer)
        if len(answer.content) != size:
            raise SAMAudioError(
                f"cannot download {self.name}: of {name}, {len(answer.content)} bytes came "
                f"instead of {size}"
            )
        return answer.content

    def open(self, name: str) -> io.BufferedReader:
        """The same as a file."""
        return io.BufferedReader(Ranges(self, name), 2**18)

    @property
    def unreached(self) -> str:
        """The end of a sentence that says that something is missing."""
        return "" if self.reached else " in the hub's cache, and the hub is not reached"

    def _check_space(self, size: int) -> None:
        there = next(path for path in self.folder.parents if path.exists())
        if (free := shutil.disk_usage(there).free) < size:
            raise SAMAudioError(
                f"cannot download {self.name}: the disk of {there} has {free / 1e9:.1f} GB free of "
                f"{size / 1e9:.1f} GB"
            )


class Ranges(io.RawIOBase):
    """A hub's file, of which only what is read is downloaded."""

    def __init__(self, repo: Repo, name: str):
        self._repo, self._name, self._place = repo, name, 0
        self._size = repo.files[name].size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place}.get(whence, self._size)
        return self._place

    def readinto(self, buffer) -> int:
        count = max(min(len(buffer), self._size - self._place), 0)
        buffer[:count] = self._repo.read(self._name, self._place, count)
        self._place += count
        return count


def cached(cache: Path, revision: str | None) -> str | None:
    """The commit of a revision, as the hub's cache knows it."""
    try:
        return (cache / "refs" / (revision or "main")).read_text().strip()
    except (OSError, ValueError):
        return revision


def say(line: str) -> None:
    """Tell what takes long, beside the bars of downloads, and as they are: only if wanted."""
    from huggingface_hub.utils import are_progress_bars_disabled
    from tqdm import tqdm

    if not are_progress_bars_disabled():
        tqdm.write(plain(line), file=sys.stderr)


@contextlib.contextmanager
def bars(shown: bool) -> Iterator[None]:
    """Bars of downloads, which small files need not have."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


class Unreached(SAMAudioError):
    """Nothing answers at the hub's address."""


@contextlib.contextmanager
def said(repo: str, revision: str | None = None, to_do: str = "download") -> Iterator[None]:
    """What the hub refuses is said in a sentence."""
    try:
        yield
    except Exception as error:
        found = sentence(error, repo, revision, to_do)
        if found is None:
            raise
        raise found from None


def sentence(
    error: BaseException, repo: str, revision: str | None, to_do: str
) -> SAMAudioError | None:
    """What went wrong; None if that was not the hub, nor the way there."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        return SAMAudioError(
            f"{repo} is gated: ask for access at https://huggingface.co/{repo}, then log in with "
            "`hf auth login` (or set HF_TOKEN); or name a copy that you trust, or an open "
            "conversion: the README lists some"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return SAMAudioError(f"{repo} has no revision {revision!r}")
    if isinstance(error, (errors.RepositoryNotFoundError, errors.HFValidationError)):
        return SAMAudioError(
            f"there is no folder and no public hub repo {repo!r}; for a private one, log in with "
            "`hf auth login`"
        )
    if isinstance(error, errors.LocalEntryNotFoundError):  # looked up after something else failed
        cause = error.__cause__ and sentence(error.__cause__, repo, revision, to_do)
        return cause or Unreached(unreached(repo, to_do))
    if isinstance(error, errors.OfflineModeIsEnabled):
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "this is offline"
        return Unreached(f"cannot {to_do} {repo}: {why}, and no copy is in the hub's cache")
    if is_of(error, "ConnectError|ConnectionError|ConnectTimeout"):
        return Unreached(unreached(repo, to_do))
    if isinstance(error, (errors.HfHubHTTPError, OSError)) or is_of(error, "HTTPError"):
        status = getattr(getattr(error, "response", None), "status_code", None)
        return SAMAudioError(f"cannot {to_do} {repo}: {told(status) or first_line(error)}")
    return None


def unreached(repo: str, to_do: str) -> str:
    from huggingface_hub import constants

    return (
        f"cannot {to_do} {repo}: {constants.ENDPOINT} is not reached, and no copy is in the hub's "
        "cache"
    )


ANSWERS = {
    401: "log in with `hf auth login`",
    403: "this account may not have it",
    404: "there is no such file",
    429: "that was too often, wait a while or log in",
}


def told(status: int | None) -> str:
    """What the hub's answer means, if there was one."""
    if status is None:
        return ""
    return f"the hub answered {status}: {ANSWERS.get(status, 'try again later')}"


def first_line(error: BaseException) -> str:
    return (reason(error).strip().splitlines() or [type(error).__name__])[0]


def is_of(error: BaseException, names: str) -> bool:
    """Is it of one of the net's classes, in whatever library the hub's client uses?"""
    kinds = [kind for kind in type(error).__mro__ if re.fullmatch(names, kind.__name__)]
    return any(re.match(r"requests\b|httpx", kind.__module__) for kind in kinds)
