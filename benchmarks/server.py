"""The server: what many jobs leave behind, and how long the first sound takes.

python -m benchmarks.server soak --jobs 300
python -m benchmarks.server first-sound
"""

import argparse
import contextlib
import http.client
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import soundfile

from benchmarks import report
from mlx_sam_audio.demo import sounds

STEPS = 2
FIRST = ("stems/target.wav",)
ALL = (*FIRST, "stems/residual.flac", "stems/target/peaks", "stems/target/spectrogram", "all.zip")


class Client:
    """Of a server in a process of its own, in a folder of its own."""

    def __init__(self, process: subprocess.Popen, folder: Path):
        self.process, self.folder = process, folder
        self.port = json.loads(process.stdout.readline())["port"]

    def __call__(self, method: str, path: str, body: bytes | dict | None = None) -> bytes:
        kind = {"Content-Type": "application/json"} if isinstance(body, dict) else {}
        body = json.dumps(body).encode() if isinstance(body, dict) else body
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        with contextlib.closing(connection):
            connection.request(method, path, body, kind)
            answer = connection.getresponse()
            data = answer.read()
            if answer.status >= 400:
                raise RuntimeError(f"{method} {path}: {data.decode()}")
            return data

    def one(self, samples: bytes, description: str, steps: int, forms: Sequence[str]) -> str:
        """A recording, its separation, and forms of its stems; the job's address."""
        file = json.loads(self("POST", "/v1/files?name=mixture.wav", samples))
        asked = {"input": {"file": file["id"]}, "description": description, "steps": steps}
        job = json.loads(self("POST", "/v1/jobs", asked))
        at = f"/v1/jobs/{job['id']}"
        self("GET", f"{at}/events")
        for form in forms:
            self("GET", f"{at}/{form}")
        self("DELETE", f"/v1/files/{file['id']}")
        return at

    def state(self) -> dict[str, int]:
        """Bytes of memory, open files, and what lies in its folder."""
        proc = Path("/proc", str(self.process.pid))
        memory = 1024 * int(next(
            line.split()[1] for line in (proc / "status").read_text().splitlines()
            if line.startswith("VmRSS")
        ))  # fmt: skip
        entries = sum(len(names) + len(folders) for _, folders, names in os.walk(self.folder))
        return {"memory": memory, "files": len(os.listdir(proc / "fd")), "entries": entries}


@contextlib.contextmanager
def serving(*options: str) -> Iterator[Client]:
    """A server with the demo model."""
    command = [sys.executable, "-m", "mlx_sam_audio.server", "--port", "0", "--announce"]
    with tempfile.TemporaryDirectory() as folder:
        command += ["--model", "demo", "--keep", folder, *options]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdout=pipe, stderr=subprocess.DEVNULL)
        try:
            yield Client(process, Path(folder))
        finally:
            process.terminate()
            process.wait()


def wav(samples) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, sounds.SAMPLE_RATE, format="WAV", subtype="FLOAT")
    return out.getvalue()


def mixture(seed: int, seconds: float) -> tuple[bytes, str]:
    """A recording, and a sound that is in it."""
    made = sounds.mixture(sounds.heldout_rng(seed), seconds, count=2)
    return wav(made.mixture), sounds.FAMILIES[made.names[0]].phrases[0]


def soak(jobs: int, seconds: float, steps: int) -> list[dict]:
    """Jobs one after the other, each removed when it is done. What there is after each of some."""
    rows = []
    with serving() as client:
        for number in range(1, jobs + 1):
            client("DELETE", client.one(*mixture(number, seconds), steps, ALL))
            if number == 1 or number % max(jobs // 10, 1) == 0:
                rows.append({"jobs": number, **client.state()})
    return rows


def first_sound(seconds: float, steps: int, repeats: int) -> list[dict]:
    """Seconds that a server takes to start, and from a file's upload to its target."""
    rows = []
    start = time.perf_counter()
    with serving() as client:
        begun = time.perf_counter() - start
        for number in range(repeats + 1):
            data, description = mixture(number, seconds)
            start = time.perf_counter()
            job = client.one(data, description, steps, FIRST)
            rows.append({"run": number, "start": begun, "seconds": time.perf_counter() - start})
            client("DELETE", job)
            begun = 0.0
    return rows


def main(arguments: list[str]) -> None:
    defaults = dict(seconds=2.0, steps=STEPS, repeats=3)
    parser = report.parser(__doc__, **defaults)
    parser.add_argument("what", choices=("soak", "first-sound"), help="to measure")
    parser.add_argument("--jobs", type=report.positive, default=300, help="of the soak")
    options: argparse.Namespace = parser.parse_args(arguments)
    if options.what == "soak":
        rows = soak(options.jobs, options.seconds, options.steps)
        report.head("jobs", "memory", "open files", "files and folders kept")
        for row in rows:
            memory = f"{row['memory'] / 2**20:.0f} MiB"
            report.line(row["jobs"], memory, row["files"], row["entries"])
    else:
        rows = first_sound(options.seconds, options.steps, options.repeats)
        report.head("run", "the server's start", "from upload to target")
        for row in rows:
            report.line(row["run"] or "first", f"{row['start']:.1f} s", f"{row['seconds']:.1f} s")
    report.write(options, rows)


if __name__ == "__main__":
    report.run(main)
