"""benchmarks/gpu.sh where there is no GPU: what stops no other part, what is done once, wheels."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest
from test_docs import parser_of

from mlx_sam_audio.models.cpu import on_cpu

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu.sh"
HERE = sys.platform == "linux" and on_cpu()
pytestmark = pytest.mark.skipif(not HERE, reason="is for Linux, and what it says without a GPU")


@pytest.fixture
def gpu(tmp_path):
    """Calls the script, with folders and other variables of its environment."""
    bin = tmp_path / "bin"
    bin.mkdir()

    def call(*arguments: str, programs=(), **variables) -> subprocess.CompletedProcess:
        for name, text in dict(programs).items():
            (bin / name).write_text(f"#!/bin/sh\n{text}\n")
            (bin / name).chmod(0o700)
        folders = {name: str(tmp_path / name.lower()) for name in ("OUT", "WHEELS", "SITE")}
        path = f"{bin}:{os.environ['PATH']}"
        environment = {**os.environ, "PYTHON": sys.executable, **folders, "PATH": path, **variables}
        command = ["bash", str(SCRIPT), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return call


def sections(page: Path) -> dict[str, str]:
    """What the page has under each heading."""
    _, *found = re.split("^## ", page.read_text(), flags=re.MULTILINE)
    return {title: text for title, _, text in (one.partition("\n") for one in found)}


def parts(path: Path, *rows: str) -> str:
    path.write_text("".join(f"{row}\n" for row in rows))
    return str(path)


def test_no_part_stops_another_and_what_is_done_is_not_done_again(gpu, tmp_path):
    trace = tmp_path / "trace"
    chosen = parts(
        tmp_path / "parts",
        "fails | 9 | any | It fails | echo begun; echo no such thing >&2; false",
        f"once | 9 | any | It runs once | echo x | tee -a {trace}",
        "slow | 1 | any | It takes long | echo begun; sleep 60",
        "card | 9 | gpu | It needs a card | echo never",
        "parity | 60 | any | Parity | measure parity",
    )
    assert gpu(PARTS=chosen).returncode == 0
    page = tmp_path / "out" / "gpu.md"
    text, found = page.read_text(), sections(page)
    assert "**Not run on a GPU**" in text and "| backend | CPU |" in text
    assert list(found) == ["It fails", "It runs once", "It takes long", "It needs a card", "Parity"]
    assert "Failed: no such thing" in found["It fails"] and "begun" in found["It fails"]
    assert "```\nx\n```" in found["It runs once"] and "s on CPU." in found["It runs once"]
    assert "Stopped after 1 s." in found["It takes long"] and "begun" in found["It takes long"]
    assert "Not run: it needs a GPU." in found["It needs a card"]
    assert "\n| velocity, video | " in found["Parity"]

    assert gpu("--again", "fails", PARTS=chosen, LIMIT="0").returncode == 0
    found = sections(page)  # with no time for what is not done
    assert "| velocity, video | " in found["Parity"] and "```\nx\n```" in found["It runs once"]
    assert "the time was over" in found["It fails"] and "```" not in found["It fails"]
    gpu("--again", "once", PARTS=chosen, LIMIT="0")
    assert trace.read_text() == "x\n" and "the time was over" in sections(page)["It runs once"]


def test_wheels_in_pieces_are_joined_checked_and_installed(gpu, tmp_path):
    wheels, made = tmp_path / "wheels", tmp_path / "tiny-1.0-py3-none-any.whl"
    wheels.mkdir()
    told = "tiny-1.0.dist-info"
    with zipfile.ZipFile(made, "w") as wheel:
        wheel.writestr("tiny.py", "SIZE = 'tiny'\n")
        wheel.writestr(f"{told}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr(f"{told}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{told}/RECORD", "")
    data = made.read_bytes()
    for i, piece in enumerate((data[:300], data[300:])):
        (wheels / f"{made.name}.part0{i}").write_bytes(piece)
    (wheels / f"{made.name}.sha256").write_text(f"{sha256(data).hexdigest()}  {made.name}\n")
    chosen = parts(
        tmp_path / "parts", 'used | 9 | any | Used | "$PYTHON" -c "import tiny; print(tiny.SIZE)"'
    )
    (wheels / f"{made.name}.part01").rename(tmp_path / "lost")
    refused = gpu(PARTS=chosen)
    sentence = f"{made.name} is not what its sha256 says: a piece of it is missing or damaged"
    assert refused.returncode == 1 and f"error: {sentence}" in refused.stderr
    assert f"Not run: {sentence}." in sections(tmp_path / "out" / "gpu.md")["Used"]

    (tmp_path / "lost").rename(wheels / f"{made.name}.part01")
    assert gpu(PARTS=chosen, programs={"nvidia-smi": "echo a card"}).returncode == 0
    assert "```\ntiny\n```" in sections(tmp_path / "out" / "gpu.md")["Used"]


def test_what_it_runs_on_a_gpu_are_commands_that_the_benchmarks_take(gpu, tmp_path):
    """A Python that only writes down its arguments, and says that MLX computes on CUDA."""
    calls = tmp_path / "calls"
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/bash\nprintf "%q " "$@" >>{calls}; echo >>{calls}\n'
        'case "$*" in *describe*) echo CUDA ;; *) echo "| done in 1s |" ;; esac\n'
    )
    python.chmod(0o700)
    listed = gpu("list").stdout.splitlines()
    assert gpu(PYTHON=str(python), REFERENCE=str(tmp_path)).returncode == 0
    found = sections(tmp_path / "out" / "gpu.md")
    assert len(found) == len(listed) and all("s on CUDA." in text for text in found.values())
    ran = [shlex.split(line)[1:] for line in calls.read_text().splitlines() if "-m bench" in line]
    ran = [words for words in ran if "--json" in words]
    assert len(ran) == len(listed) - 1  # and pytest
    for program, *words in ran:
        assert importlib.util.find_spec(program)
        parser_of(program, words)
    against = [words for words in ran if "torch" in words]
    sizes = [words[words.index("--size") + 1 :][:3:2] for words in against]
    assert len({tuple(size) for size in sizes}) == 9
