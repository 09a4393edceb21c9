"""Writes a model folder: whole or not at all, in memory that does not grow with the model."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx

from mlx_sam_audio.errors import SAMAudioError

SHARD = 512 * 2**20  # bytes


@contextlib.contextmanager
def whole(target: Path, force: bool) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its name if the body succeeds."""
    if target.exists() and not force:
        raise SAMAudioError(f"{target} exists already: choose another --mlx-path, or add --force")
    if target.exists() and not target.is_dir():
        raise SAMAudioError(f"{target} is a file")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise SAMAudioError(f"cannot write into {target.parent}: {error.strerror}") from None
    try:
        yield temporary
        temporary.chmod(0o755)
        if target.exists():
            replaced = temporary.with_name(temporary.name + ".replaced")
            os.replace(target, replaced)
            os.replace(temporary, target)
            shutil.rmtree(replaced)
        else:
            os.replace(temporary, target)
    except OSError as error:
        raise SAMAudioError(f"cannot write {target}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_space(folder: Path, size: int) -> None:
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
        except RuntimeError as error:
            raise SAMAudioError(f"cannot write {path}: {error}") from None
        if path.stat().st_size < held:  # a full disk is not reported by every writer
            raise SAMAudioError(f"cannot write {path}: the disk is full")
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
