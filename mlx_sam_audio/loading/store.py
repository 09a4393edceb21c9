"""Where models lie, and the way from a name to the folder of one."""

import contextlib
import difflib
import os
from pathlib import Path

from ..errors import SAMAudioError, shown
from ..files import reason
from .hub import place, say
from .strict_json import read_json

SIZES = ("small", "base", "large", "small-tv", "base-tv", "large-tv")
AUXILIARY = (*(f"pe-a-frame-{size}" for size in SIZES[:3]), "judge", "clap", "aesthetics")
KNOWN = (*SIZES, *AUXILIARY, "imagebind", "demo")
HUB = ".hub.json"  # beside the files of a model: which repo of the hub it came from
ORIGINALS = {f"facebook/sam-audio-{size}": size for size in (*SIZES, "judge")}
ORIGINALS |= {f"facebook/{name}": name for name in AUXILIARY if name.startswith("pe-")}
ORIGINALS |= {"lukewys/laion_clap": "clap", "facebook/audiobox-aesthetics": "aesthetics"}
DEMO = Path(__file__).parent.parent / "demo" / "model"


def store() -> Path:
    """Where converted models lie: $SAM_AUDIO_HOME, or a folder of the user's cache."""
    try:
        folder = expanded(os.environ.get("SAM_AUDIO_HOME") or Path.home() / ".cache/mlx-sam-audio")
    except RuntimeError:
        raise SAMAudioError(
            "the store of models is in your home folder: set HOME, or SAM_AUDIO_HOME to a folder"
        ) from None
    if os.path.isfile(folder):
        raise SAMAudioError(
            f"the store of models {folder} is a file: set SAM_AUDIO_HOME to a folder"
        )
    return folder


def stamps() -> Path:
    """The folder of `manifest`'s stamps."""
    try:
        return store() / ".verified"
    except SAMAudioError:  # there is none: nothing can be remembered
        return Path(os.devnull)


def resolve(name: str | Path, revision: str | None = None, kind: str = "sam_audio") -> Path:
    """The folder of a model: a path, a name in the local store, or a hub repo, `owner/name` or
    `owner/name@revision`, which goes into the store, once, converted if nobody did that before."""
    if folder := local(name):
        found = place(str(name))
        check_revision(folder, str(name), revision or (found and found.revision))
        return folder
    name = str(name)
    if name in SIZES + AUXILIARY:
        raise SAMAudioError(
            f"the model {name!r} is not converted yet: run `python -m convert --hf-path {name}` "
            "once (where the original weights are gated, the README says how to get access, and "
            "what there is without)"
        )
    if name == "imagebind":
        raise SAMAudioError(
            "the model 'imagebind' is not converted yet: download "
            "https://dl.fbaipublicfiles.com/imagebind/imagebind_huge.pth into a folder named "
            "imagebind and run `python -m convert --hf-path imagebind` beside it once"
        )
    found = place(name)
    if not found or found.file:
        if found:
            raise SAMAudioError(f"convert {name} first, with `python -m convert --hf-path {name}`")
        raise SAMAudioError(
            f"there is no model folder {name}, and no model of that name in {store()}"
            + nearest(name, [*KNOWN, *(folder.name for folder in models())])
        )
    from convert.command import convert  # the one door to what lies beside the package

    return convert(name, revision=revision, wanted=kind, tell=say)


def check_revision(folder: Path, name: str, revision: str | None) -> None:
    """Does a folder of the store hold this revision of a repo? Raises SAMAudioError."""
    if revision is None:
        return
    path = folder / HUB
    path = path if path.is_file() else folder / "source.json"
    values = read_json(path) if path.is_file() else {}
    told = values.get("checkpoint", values)  # what is from the hub as it is tells of itself
    if not isinstance(told, dict) or revision not in (told.get("revision"), told.get("asked")):
        raise SAMAudioError(
            f"{folder} is not known to hold revision {revision} of {name}: convert that one into "
            "another folder, with --revision and --mlx-path, and name the folder"
        )


def local(name: str | Path) -> Path | None:
    """The same, if it lies on this machine, outside the hub's cache."""
    path = expanded(name)
    if present(path):
        return path
    if str(name) == "demo":
        return DEMO
    found = place(str(name))
    inner = shelved(found.repo) if found and not found.file else str(name)
    named = not inner.startswith((".", "/", "~"))
    return store() / inner if named and present(expanded(store() / inner)) else None


def title(folder: Path) -> str:
    """What the model in a folder is called."""
    return "demo" if folder == DEMO else folder.name


def shelved(repo: str) -> str:
    """The name in the store of a hub repo that was converted."""
    return ORIGINALS.get(repo) or repo.replace("/", "--")


def expanded(name: str | Path) -> Path:
    """A path, ~ replaced. Raises SAMAudioError for what can be none on this system."""
    if not isinstance(name, (str, os.PathLike)):
        raise SAMAudioError(f"name must be a path or a model's name, not {shown(name)}")
    try:
        path = Path(name).expanduser()
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, RuntimeError) as error:  # too long, a zero byte, nobody's home
        raise SAMAudioError(f"there is no folder {str(name)[:300]}: {reason(error)}") from None
    return path


def aside(folder: Path) -> Path:
    """Where a conversion keeps the folder that it replaces until the new one has its name."""
    return folder.with_name(f".{folder.name}.replaced")


def present(folder: Path) -> bool:
    """Is the folder there? If it was put aside by a conversion that was killed then, it is now."""
    if not folder.exists() and folder.name:
        real = Path(os.path.realpath(folder))
        with contextlib.suppress(OSError):
            os.replace(aside(real), real)
    return folder.is_dir()


def nearest(name: str, known: list[str]) -> str:
    """The end of a sentence that says there is no such name."""
    found = difflib.get_close_matches(name[:100], known, 1)
    return f": did you mean {found[0]}?" if found else ""


def models() -> list[Path]:
    """The folders of the local store; hidden ones are not finished, or were put aside."""
    try:
        for path in store().glob(".*.replaced"):
            present(path.with_name(path.name[1 : -len(".replaced")]))
        return sorted(path for path in store().glob("[!.]*") if path.is_dir())
    except OSError as error:
        raise SAMAudioError(f"cannot read {store()}: {reason(error)}") from None
