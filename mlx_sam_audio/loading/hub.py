"""Models of the Hugging Face hub."""

from pathlib import Path

from ..errors import SAMAudioError
from ..files import reason


def is_repo(name: str) -> bool:
    """Has it the form owner/name?"""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and name[-1] != "/"


def download(repo: str, patterns: list[str], revision: str | None = None) -> Path:
    """A hub repo's files that match, in the hub's cache; from the cache alone when offline."""
    from huggingface_hub import constants, errors, snapshot_download

    try:
        return Path(snapshot_download(repo, allow_patterns=patterns, revision=revision))
    except errors.GatedRepoError:
        raise SAMAudioError(
            f"{repo} is gated: ask for access at https://huggingface.co/{repo}, then log in with "
            "`hf auth login` (or set HF_TOKEN)"
        ) from None
    except errors.RevisionNotFoundError:
        raise SAMAudioError(f"{repo} has no revision {revision!r}") from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise SAMAudioError(
            f"there is no folder and no public hub repo {repo!r}; for a private one, log in with "
            "`hf auth login`"
        ) from None
    except errors.LocalEntryNotFoundError:
        raise SAMAudioError(
            f"cannot download {repo}: {constants.ENDPOINT} is not reached, and no copy is in the "
            "hub's cache"
        ) from None
    except (errors.HfHubHTTPError, OSError) as error:
        lines = reason(error).strip().splitlines() or [type(error).__name__]
        raise SAMAudioError(f"cannot download {repo}: {lines[0]}") from None
