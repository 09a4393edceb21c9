"""The fuzzers of tests/fuzz, for a short while; what they find prints how to do it again."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.fuzz
def test_nothing_gets_by_in_a_minute():
    words = [sys.executable, "-m", "tests.fuzz", "--cases", "60"]
    words += ["--workers", "1", "--limit", "180"]  # beside another process of tests
    fuzz = subprocess.run(words, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    print(fuzz.stdout)
    assert fuzz.returncode == 0, f"{fuzz.stdout}{fuzz.stderr[-2000:]}"
