"""python -m mlx_sam_audio.doctor; tells what is installed, and whether it works, for a report."""

import sys

from .command.terminal import run


def main(arguments: list[str] | None = None) -> int:
    return run("mlx_sam_audio.command.doctor:main", arguments)


if __name__ == "__main__":
    sys.exit(main())
