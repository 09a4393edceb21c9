"""The rows of a set's parquet or csv, from a file, a folder, or the hub."""

import csv
from pathlib import Path
from typing import NamedTuple

from mlx_sam_audio.errors import SAMAudioError
from mlx_sam_audio.files import existing, reason, sha256
from mlx_sam_audio.loading import hub
from mlx_sam_audio.settings import digest


class Table(NamedTuple):
    """version: of its files."""

    columns: tuple[str, ...]
    rows: list[dict]
    version: str


def read(source: str | Path, columns: tuple[str, ...], optional: tuple[str, ...] = ()) -> Table:
    """Those columns of a parquet file, of a folder of them or of a place on the hub, or of a csv.
    Raises SAMAudioError."""
    if Path(source).suffix.lower() == ".csv":
        table = read_csv(source)
        lacking = sorted(set(columns) - set(table.columns))
    else:
        paths = parquets(source)
        found = [read_parquet(path, (*columns, *optional)) for path in paths]
        lacking = sorted(set(columns) - set(found[0].columns))
        rows = [row for table in found for row in table.rows]
        table = Table(found[0].columns, rows, digest(*(t.version for t in found))[:12])
    if lacking:
        raise SAMAudioError(f"{source} has no column {lacking[0]}: it needs {', '.join(columns)}")
    return table


def read_csv(source: str | Path) -> Table:
    """All columns; of several of one name the last. Text stays as it stands."""
    path = existing(source)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            columns, *rows = filter(None, csv.reader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise SAMAudioError(f"cannot read {path}: {reason(error)}") from None
    for number, row in enumerate(rows, 1):
        if len(row) != len(columns):
            raise SAMAudioError(
                f"{path}, row {number}: {len(row)} values for {len(columns)} columns"
            )
    rows = [dict(zip(columns, row, strict=True)) for row in rows]
    return Table(tuple(columns), rows, sha256(path)[:12])


def read_parquet(path: Path, columns: tuple[str, ...]) -> Table:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise SAMAudioError(
            "parquet files need pyarrow: `pip install 'mlx-sam-audio[eval]'`"
        ) from None
    try:
        with pyarrow.parquet.ParquetFile(existing(path)) as file:
            there = tuple(name for name in columns if name in file.schema_arrow.names)
            rows = file.read(columns=list(there)).to_pylist()
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise SAMAudioError(f"cannot read {path}: {reason(error)}") from None
    return Table(there, rows, sha256(path)[:12])


def parquets(source: str | Path) -> list[Path]:
    """A file, or those in a folder, the test split if there are several."""
    path = Path(source)
    if not path.exists() and (place := hub.place(str(source))):
        from huggingface_hub import snapshot_download

        with hub.said(f"datasets/{place.repo}", place.revision):
            path = Path(
                snapshot_download(
                    place.repo,
                    repo_type="dataset",
                    revision=place.revision,
                    allow_patterns="*.parquet",
                )
            )
    if not path.is_dir():
        return [existing(path)]
    found = sorted(path.rglob("*.parquet"))
    if not found:
        raise SAMAudioError(f"{path} holds no parquet file")
    return [each for each in found if "test" in each.name] or found
