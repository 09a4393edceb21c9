"""What a table was measured on: `python -m benchmarks.machine` prints it."""

import os
import platform
import subprocess
import sys
from datetime import datetime, timezone

import mlx.core as mx
import numpy as np

from mlx_sam_audio import __version__
from mlx_sam_audio.command.doctor import backend


def describe() -> dict[str, str | int]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    told, _ = backend()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "chip": str(mx.device_info().get("device_name", platform.processor())),
        "cores": os.cpu_count(),
        "backend": told["name"],
        "product_bits": told["product_bits"],
        "python": platform.python_version(),
        "mlx": mx.__version__,
        "numpy": np.__version__,
        "mlx_sam_audio": __version__,
        "commit": commit or "unknown",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def rss(usage) -> float:
    """Peak resident memory in MiB of a resource usage; Linux counts in KiB, macOS in bytes."""
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    print("| machine | |\n|---|---|")
    for name, value in describe().items():
        print(f"| {name} | {value} |")
