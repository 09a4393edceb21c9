"""Processes as `mlx.launch` starts them, over loopback."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import mlx_sam_audio

LAUNCH = "from mlx._distributed_utils.launch import main; main()"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(mlx_sam_audio.__file__).parents[1])}
ENVIRONMENT.pop("COLUMNS", None)  # which tells of a terminal behind mlx.launch
SEPARATE = [sys.executable, "-m", "mlx_sam_audio.separate"]


def launch(count: int, *words: str, **options) -> subprocess.CompletedProcess:
    """What mlx.launch says of a command that so many processes run. It has no exit status."""
    port = str(random.randrange(20_000, 32_000))  # below those that systems give away
    start = [sys.executable, "-c", LAUNCH, "-n", str(count), "--starting-port", port, "--"]
    return subprocess.run(
        [*start, *words], env=ENVIRONMENT, capture_output=True, text=True, timeout=300, **options
    )


@contextlib.contextmanager
def started(count: int, *words: str, more: Sequence[Sequence[str]] = ()) -> Iterator[list]:
    """The same processes without mlx.launch, which kills all when one is killed. more: words for
    each."""
    port = random.randrange(20_000, 32_000)
    hosts = Path("hosts.json").absolute()
    hosts.write_text(json.dumps([[f"127.0.0.1:{port + i}"] for i in range(count)]))
    ranks = []
    for rank, own in enumerate(more or [()] * count):
        environment = ENVIRONMENT | {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts)}
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        ranks.append(subprocess.Popen([*words, *own], env=environment, **pipes))
    try:
        yield ranks
    finally:
        for rank in ranks:
            rank.send_signal(signal.SIGCONT)
            rank.kill()
            rank.communicate()


def ended(rank: subprocess.Popen, seconds: float = 60) -> tuple[int, str, str]:
    """Exit status, and what was said."""
    out, error = rank.communicate(timeout=seconds)
    return rank.returncode, out, error
