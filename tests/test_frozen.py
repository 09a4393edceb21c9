"""Apps that PyInstaller freezes: `pip install '.[frozen,serve]' && python -m pytest -m frozen`."""

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
APP = """
import importlib
import sys
import numpy as np
from mlx_sam_audio import SAMAudio
from mlx_sam_audio.media import audio

model = SAMAudio.from_pretrained("demo")
wave = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
model.separate(wave, "a bird", steps=2).save("target.wav", "residual.wav")
assert importlib.import_module("convert.known").LICENSE.is_file()  # for models of the hub
assert sys.frozen and len(audio.read("target.wav", 16_000)) == 16_000
"""


def freeze(program: Path, folder: Path) -> Path:
    build = [sys.executable, "-m", "PyInstaller", "--onedir", "--log-level", "ERROR"]
    build += ["--paths", str(ROOT)]  # for a package that is installed from a checkout
    subprocess.run([*build, str(program)], cwd=folder, check=True)
    return folder / "dist" / program.stem / program.stem


@pytest.mark.frozen
def test_an_app_in_one_folder_needs_no_options(tmp_path):
    (tmp_path / "app.py").write_text(APP)
    subprocess.run([freeze(tmp_path / "app.py", tmp_path)], cwd=tmp_path, check=True)


@pytest.mark.frozen
def test_the_server_of_an_app(tmp_path):
    """As the Swift example starts, asks and stops it."""
    program = freeze(ROOT / "examples/mac/separator.py", tmp_path)
    options = ["--port", "0", "--announce", "--exit-with-stdin", "--token", "secret"]
    pipe = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with subprocess.Popen([program, *options], cwd=tmp_path, **pipe) as server:
        told = json.loads(server.stdout.readline())

        def ask(path: str, body: object = None, kind: str = "application/json") -> bytes:
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            headers = {"Authorization": "Bearer secret", "Content-Type": kind}
            request = urllib.request.Request(f"{told['url']}{path}", data, headers)
            with urllib.request.urlopen(request) as answer:
                return answer.read()

        assert b"<html" in ask("")
        assert b"wavesurfer" in ask("web/vendor/wavesurfer.esm.js").lower()
        example = json.loads(ask("v1/files/example", b""))
        wanted = {"input": {"file": example["id"]}, "description": example["description"]}
        job = json.loads(ask("v1/jobs", {**wanted, "steps": 2}))
        while job["status"] in ("queued", "running"):
            time.sleep(0.2)
            job = json.loads(ask(f"v1/jobs/{job['id']}"))
        assert job["status"] == "done", job["error"]
        assert ask(f"v1/jobs/{job['id']}/stems/target.wav")[:4] == b"RIFF"
        server.stdin.close()
        assert server.wait(30) == 0 and not server.stdout.read()
