"""Models of the Hugging Face hub."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import SAMAudioError
from ..files import reason


def is_repo(name: str) -> bool:
    """Has it the form owner/name?"""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and name[-1] != "/"


def download(repo: str, patterns: list[str], revision: str | None = None) -> Path:
    """A hub repo's files that match, in the hub's cache; from the cache alone when offline."""
    from huggingface_hub import snapshot_download

    with said(repo, revision):
        return Path(snapshot_download(repo, allow_patterns=patterns, revision=revision))


def sizes(repo: str, revision: str, cached: Path) -> dict[str, int]:
    """Bytes of a hub repo's files, by name; of those in the hub's cache where nothing answers."""
    from huggingface_hub import HfApi

    try:
        with said(repo, revision):
            info = HfApi().model_info(repo, revision=revision, files_metadata=True)
    except Unreached:
        return {path.name: path.stat().st_size for path in cached.iterdir() if path.is_file()}
    return {file.rfilename: file.size or 0 for file in info.siblings or ()}


def read_range(repo: str, name: str, revision: str, start: int, size: int) -> bytes:
    """Some bytes of a hub repo's file."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    if not size:
        return b""
    headers = {**build_hf_headers(), "Range": f"bytes={start}-{start + size - 1}"}
    with said(repo, revision):
        answer = get_session().get(hf_hub_url(repo, name, revision=revision), headers=headers)
        hf_raise_for_status(answer)
    if len(answer.content) != size:
        raise SAMAudioError(
            f"cannot download {repo}: of {name}, {len(answer.content)} bytes came instead of {size}"
        )
    return answer.content


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
        if cause and not isinstance(cause, Unreached):
            return cause
        return Unreached(
            f"cannot {to_do} {repo}: {constants.ENDPOINT} is not reached, and no copy is in the "
            "hub's cache"
        )
    if isinstance(error, errors.OfflineModeIsEnabled) or is_of(
        error, "ConnectError|ConnectionError"
    ):
        return Unreached(f"cannot {to_do} {repo}: {constants.ENDPOINT} is not reached")
    if isinstance(error, (errors.HfHubHTTPError, OSError)) or is_of(error, "HTTPError"):
        lines = reason(error).strip().splitlines() or [type(error).__name__]
        told = re.sub(r" ?\(Request ID: [^)]*\)", "", lines[0])
        status = getattr(getattr(error, "response", None), "status_code", None)
        advice = {401: ": log in with `hf auth login`", 429: ": wait a while, or log in"}
        return SAMAudioError(f"cannot {to_do} {repo}: {told}{advice.get(status, '')}")
    return None


def is_of(error: BaseException, names: str) -> bool:
    """Is it of one of the net's classes, in whatever library the hub's client uses?"""
    kinds = [kind for kind in type(error).__mro__ if re.fullmatch(names, kind.__name__)]
    return any(re.match(r"requests\b|httpx", kind.__module__) for kind in kinds)
