"""What a table was measured on."""

import os
import platform
import subprocess
import sys

import mlx.core as mx


def describe() -> dict[str, str | int]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "chip": str(mx.device_info().get("device_name", platform.processor())),
        "cores": os.cpu_count(),
        "backend": str(mx.default_device()),
        "python": platform.python_version(),
        "mlx": mx.__version__,
        "commit": commit or "unknown",
    }


def rss(usage) -> float:
    """Peak resident memory in MiB of a resource usage; Linux counts in KiB, macOS in bytes."""
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
