"""How commands end: one line, the right status, nothing left behind."""

import errno
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from mlx_sam_audio import SAMAudioError
from mlx_sam_audio.command import terminal
from mlx_sam_audio.errors import note, plain
from mlx_sam_audio.media import containers

ARGUMENTS = "-m demo -i mix.wav -d bird --steps 2000 --no-metrics".split()
COMMAND = """
import sys
from mlx_sam_audio.separate import main
print("ready", flush=True)
sys.exit(main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("seconds", [0.01, 0.2, 3])
def test_a_signal_at_any_moment_is_answered_in_one_line(tmp_path, number, seconds):
    soundfile.write(tmp_path / "mix.wav", np.zeros(32_000), 16_000)
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    command = [sys.executable, "-c", COMMAND, *ARGUMENTS]
    run = subprocess.Popen(command, cwd=tmp_path, text=True, **pipes)
    run.stdout.readline()
    time.sleep(seconds)
    for _ in range(3):  # of somebody who is impatient
        run.send_signal(number)
        time.sleep(0.02)
    errors = run.communicate(timeout=60)[1]
    lines = [line for line in errors.replace("\r", "\n").splitlines() if "solving" not in line]
    assert run.returncode == 128 + number
    assert [line.partition(";")[0] for line in lines if line.strip()] == ["stopped"]
    assert set(os.listdir(tmp_path)) <= {"mix.wav", ".mix.bird.wav.resume"}


def test_a_signal_while_ffmpeg_asks_for_bytes_is_heard(tmp_path):
    """PyAV would print it and go on."""
    sent = []
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 16_000)
    with (
        open(tmp_path / "a.wav", "rb") as file,
        pytest.raises(KeyboardInterrupt),
        terminal.Stops(ends=False),
    ):

        def seek(*place):
            if not sent:
                sent.append(os.kill(os.getpid(), signal.SIGINT))
            return file.seek(*place)

        likeness = SimpleNamespace(read=file.read, write=None, tell=file.tell, seek=seek)
        containers.container(likeness).close()
        time.sleep(5)


def test_errors_and_notes_are_lines(capsys):
    def command(arguments):
        note("one\nline")
        note("one\nline")
        raise SAMAudioError("bad \x1b[31m\udcff name")

    assert terminal.run(command, []) == 2
    assert capsys.readouterr().err == "note: one\\nline\nerror: bad \\x1b[31m\\udcff name\n"


def test_too_little_memory_is_an_error(capsys):
    def command(arguments):
        raise MemoryError

    assert terminal.run(command, []) == 2
    assert "not enough memory" in capsys.readouterr().err


def test_what_the_system_refuses_is_an_error(capsys):
    def command(arguments):
        raise PermissionError(errno.EACCES, "Permission denied", "locked/config.json")

    assert terminal.run(command, []) == 2
    assert capsys.readouterr().err == "error: cannot use locked/config.json: Permission denied\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full disk")
def test_a_report_that_goes_to_a_full_disk():
    code = "import sys; from mlx_sam_audio.command.terminal import run; sys.exit(run(print, ['x']))"
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr == b"error: cannot go on: No space left on device\n"


def test_what_is_printed_is_one_printable_line():
    assert plain("a\tb\r\n\u2028\u202e\x07é") == "a\\tb\\r\\n\\u2028\\u202e\\x07é"
