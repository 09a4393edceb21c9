"""A server in a process of its own, and a client of it."""

import contextlib
import http.client
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from mlx_sam_audio.demo import sounds

ROOT = Path(__file__).parent.parent
RATE = sounds.SAMPLE_RATE
TOKEN = "a token"
WATCH = """
import os, socket

def watched(name):
    real = getattr(socket.socket, name)
    def call(self, address, *more):
        local = self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost")
        if not local:
            with open(os.environ["TOUCHED"], "a") as file:
                print(name, address, file=file)
            raise OSError("no network")
        return real(self, address, *more)
    setattr(socket.socket, name, call)

for name in ("connect", "connect_ex", "sendto"):
    watched(name)
"""


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self) -> dict:
        return self.json["error"]


class Server:
    """A server in a process of its own, and a client of it."""

    def __init__(self, *options: object, home: Path, module: str = "server", ranks: int = 1):
        """ranks: with mlx.launch; `beside` starts the others."""
        self.touched = home / "touched"
        (home / "watch").mkdir(exist_ok=True)
        (home / "watch/sitecustomize.py").write_text(WATCH)
        paths = [str(home / "watch"), str(ROOT), os.environ.get("PYTHONPATH", "")]
        places = dict(TMPDIR=home / "tmp", SAM_AUDIO_HOME=home / "store", TOUCHED=self.touched)
        if not (home / "tmp").exists():
            (home / "tmp").mkdir()
            compiled = Path(tempfile.gettempdir(), "mlx")  # what MLX compiles takes long
            compiled.mkdir(exist_ok=True)
            (home / "tmp/mlx").symlink_to(compiled)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        self._environment = environment | {name: str(place) for name, place in places.items()}
        if ranks > 1:
            (home / "hosts").write_text(json.dumps([["127.0.0.1:1"]] * ranks))
            self._environment |= {"MLX_HOSTFILE": str(home / "hosts"), "MLX_RANK": "0"}
        command = [sys.executable, "-m", f"mlx_sam_audio.{module}", "--port", "0", "--announce"]
        self._command = [*command, *map(str, options)]
        self.log = open(home / "log", "ab")
        self.process = self._started(self._environment)
        line = self.process.stdout.readline()
        assert line, (home / "log").read_text()
        self.told = json.loads(line)
        self.port, self.token = self.told["port"], self.told["token"]

    def _started(self, environment: dict[str, str]) -> subprocess.Popen:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            self._command, stdin=pipe, stdout=pipe, stderr=self.log, env=environment
        )

    def beside(self, rank: int, **environment: str) -> subprocess.Popen:
        """Another one of the processes."""
        return self._started(self._environment | {"MLX_RANK": str(rank), **environment})

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def __call__(self, method: str, path: str, body=None, **headers: str) -> Answer:
        """headers: with _ for -; those that are None are left out."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, (dict, list)):
            body = json.dumps(body).encode()
            given.setdefault("Content-Type", "application/json")
        if self.token and "Authorization" not in given:
            given["Authorization"] = f"Bearer {self.token}"
        with contextlib.closing(self.connection()) as connection:
            sent = {name: value for name, value in given.items() if value is not None}
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            told = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, told, answer.read())

    def upload(self, samples, name="sound.wav", rate=RATE) -> dict:
        answer = self("POST", f"/v1/files?name={name}", wav(samples, rate))
        assert answer.status == 201, answer.body
        return answer.json

    def ask(self, file: dict | None = None, **values) -> dict:
        """A job that is taken."""
        values = {"input": {"file": file["id"]}, "steps": 1, **values} if file else values
        answer = self("POST", "/v1/jobs", values)
        assert answer.status == 202, answer.body
        assert answer.headers["location"] == f"/v1/jobs/{answer.json['id']}"
        return answer.json

    def events(self, job: dict, **headers: str) -> list[tuple[str, str, dict]]:
        """Id, name and data of all to the end."""
        text = self("GET", f"/v1/jobs/{job['id']}/events", **headers).body.decode()
        rows = [row for row in text.split("\n\n") if row and not row.startswith(":")]
        found = [dict(line.split(": ", 1) for line in row.splitlines()) for row in rows]
        return [(row["id"], row["event"], json.loads(row["data"])) for row in found]

    def done(self, job: dict) -> dict:
        """The job when it is done."""
        _, event, told = self.events(job)[-1]
        assert event == "done", told
        return told

    def stem(self, job: dict, name: str) -> np.ndarray:
        data = self("GET", f"{job['stems'][name]['url']}.wav").body
        return soundfile.read(io.BytesIO(data), dtype="float32")[0]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        status = self.process.wait(30)
        self.log.close()
        return status


def wav(samples, rate=RATE) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, np.asarray(samples), rate, format="WAV", subtype="FLOAT")
    return out.getvalue()


def mixture(seed=0, seconds=1.0, count=2) -> np.ndarray:
    return sounds.mixture(sounds.heldout_rng(seed), seconds, count=count).mixture
