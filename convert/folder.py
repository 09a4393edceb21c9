"""Writes a model folder: whole or not at all, in memory that does not grow with the model."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import mlx.core as mx

from mlx_sam_audio.errors import SAMAudioError
from mlx_sam_audio.files import part, reason, remove
from mlx_sam_audio.loading import manifest
from mlx_sam_audio.loading.store import aside, present
from mlx_sam_audio.loading.strict_json import read_json

SHARD = 512 * 2**20  # bytes


def check_target(target: Path, force: bool, sources: Iterable[Path]) -> None:
    """Can the new folder have that name? Raises SAMAudioError."""
    if not present(target):
        if target.exists():
            raise SAMAudioError(f"{target} is a file")
        return
    if not force:
        raise SAMAudioError(f"{target} exists already: choose another --mlx-path, or add --force")
    real = target.resolve()
    for source in (path.resolve() for path in sources):
        if source == real or source in real.parents or real in source.parents:
            raise SAMAudioError(f"{target} is not replaced: what is converted lies in {source}")
    if others := not_ours(target):
        raise SAMAudioError(
            f"{target} is not replaced: it holds {others[0]}, which no conversion wrote"
        )


def not_ours(folder: Path) -> list[str]:
    """What lies in a folder that is not of the model there, if any."""
    names = {path.name for path in folder.iterdir()} - {".DS_Store"}
    if manifest.NAME in names:
        return manifest.others(folder)
    if "source.json" in names:  # versions before the manifest
        converter = read_json(folder / "source.json").get("converter")
        if str(converter).startswith("mlx-sam-audio"):
            return []
    return sorted(names)


@contextlib.contextmanager
def whole(target: Path, force: bool, sources: Iterable[Path]) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its name if the body succeeds.

    force: what has that name is replaced, if it is a model, and holds none of `sources`. A link
    to a folder stays one. Nothing else remains if the body fails.
    """
    check_target(target, force, sources)
    target = Path(os.path.realpath(target))
    new = [folder for folder in target.parents if not folder.exists()]
    temporary = part(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        if target.exists():
            remove(aside(target))
            os.replace(target, aside(target))
        os.replace(temporary, target)
        remove(aside(target))
    except OSError as error:
        raise SAMAudioError(f"cannot write {target}: {reason(error)}") from None
    finally:
        present(target)  # what was put aside, if nothing took its place
        remove(temporary)
        for folder in new:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()


def check_space(folder: Path, size: float) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise SAMAudioError(
            f"the disk of {folder.parent} has {free / 2**20:.0f} MiB free, the converted model "
            f"needs {size / 2**20:.0f} MiB"
        )


def write_weights(folder: Path, stem: str, tensors: Iterator[tuple[str, mx.array]]) -> None:
    """STEM.safetensors, or shards of half a gigabyte with an index."""
    shard, held, size, index, number = {}, 0, 0, {}, 0

    def flush():
        nonlocal shard, held, number
        number += 1
        name = f"{stem}-{number:05d}.safetensors"
        path = folder / name
        try:
            mx.save_safetensors(str(path), shard, metadata={"format": "mlx"})
            if path.stat().st_size < held:  # a full disk is not reported by every writer
                raise RuntimeError("the disk is full")
            written = mx.load(str(path))
            if not all(mx.array_equal(written.pop(key), shard[key]).item() for key in shard):
                raise RuntimeError("what was written reads otherwise")
        except RuntimeError as error:
            raise OSError(f"{name}: {error}") from None
        index.update(dict.fromkeys(shard, name))
        shard, held = {}, 0

    for name, tensor in tensors:
        if shard and held + tensor.nbytes > SHARD:
            flush()
        mx.eval(tensor)
        shard[name] = tensor
        held += tensor.nbytes
        size += tensor.nbytes
    flush()
    if number == 1:
        os.replace(folder / f"{stem}-00001.safetensors", folder / f"{stem}.safetensors")
        return
    final = {f"{stem}-{i:05d}.safetensors": f"{stem}-{i:05d}-of-{number:05d}.safetensors"
             for i in range(1, number + 1)}  # fmt: skip
    for old, new in final.items():
        os.replace(folder / old, folder / new)
    write_json(
        folder / f"{stem}.safetensors.index.json",
        {
            "metadata": {"total_size": size},
            "weight_map": {name: final[file] for name, file in sorted(index.items())},
        },
    )


def write_json(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")
