"""All that could change a number: what two runs must share to be one."""

from collections.abc import Callable
from pathlib import Path

import soxr

import mlx_sam_audio
from benchmarks import evaluation, machine
from benchmarks.evaluation.profiles import told
from benchmarks.evaluation.scores import DEFINITIONS
from mlx_sam_audio import Settings
from mlx_sam_audio.files import sha256
from mlx_sam_audio.loading import manifest
from mlx_sam_audio.loading.store import resolve
from mlx_sam_audio.ranking import rank
from mlx_sam_audio.settings import digest
from mlx_sam_audio.span_predictor import SpanPredictor

CODE = {mlx_sam_audio: "**/*.py", evaluation: "*.py"}  # but not what prepares datasets


def sums(folder: Path) -> dict[str, str]:
    """What the files of a model are, by their manifest."""
    return {name: entry.sha256 for name, entry in sorted(manifest.read(folder).items())}


def helpers(settings: Settings) -> dict[str, str]:
    """Sums of the other models that a separation asks."""
    ranked = rank.ranker(settings.ranker).weights if settings.candidates != 1 else ()
    names = [name for name in ranked if name in rank.MODELS]
    names += [SpanPredictor.NAME] if settings.predict_spans else []
    return {name: digest(sums(resolve(name))) for name in names}


def identity(
    folder: Path, settings: Callable[[str], Settings], **given: object
) -> dict[str, object]:
    """By name: a model's files, settings of each kind of prompt, versions, the machine."""
    found = {**given, **{f"model's {name}": sha for name, sha in sums(folder).items()}}
    common, own = told(settings("text")), told(settings("visual"))
    found |= common
    found |= {f"{name}, with a video": own[name] for name in own if own[name] != common[name]}
    here = machine.describe()
    return {
        **found,
        "definitions of metrics": DEFINITIONS,
        "code": code(),
        **{name: here[name] for name in ("system", "chip", "backend", "python", "mlx", "numpy")},
        "soxr": soxr.__version__,
        "mlx_sam_audio": mlx_sam_audio.__version__,
    }


def code() -> str:
    """A fingerprint of the package and of this room."""
    rooms = {Path(room.__file__).parent: files for room, files in CODE.items()}
    sources = [(path, room) for room, files in rooms.items() for path in sorted(room.glob(files))]
    return digest(*((path.relative_to(room).as_posix(), sha256(path)) for path, room in sources))
