"""The processes that `mlx.launch` started together, on one machine or several."""

import json
import os
from pathlib import Path

from ..errors import SAMAudioError

RANK, LISTS = "MLX_RANK", ("MLX_HOSTFILE", "MLX_IBV_DEVICES")  # of hosts, one entry a rank


def launched() -> tuple[int, int]:
    """This process's rank, and how many there are; 0 and 1 without `mlx.launch`."""
    lists = [os.environ[name] for name in LISTS if name in os.environ]
    if RANK not in os.environ or not lists:
        return 0, 1
    try:
        text = Path(lists[0]).read_text().strip()  # empty where there is but one host
        rank, size = int(os.environ[RANK]), len(json.loads(text)) if text else 1
    except (OSError, ValueError, TypeError):
        rank, size = 0, 0
    if not 0 <= rank < size:
        raise SAMAudioError(
            f"cannot tell from ${RANK} and {lists[0]} who works here: mlx.launch does"
        )
    return rank, size
