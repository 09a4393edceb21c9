"""--goldens DIR for this project's own tests. pytest takes a folder among its arguments for the
tests' root, unless it knows the option before it looks for that."""

from pathlib import Path

HERE = Path("tests/golden")


def pytest_addoption(parser):
    if (HERE / "make_golden.py").exists():
        told = "others like tests/golden, for -m parity"
        parser.addoption("--goldens", type=Path, default=HERE.resolve(), help=told)
