"""python -m mlx_sam_audio.judge -i mix.wav -t target.wav -d "a dog"; scores what was separated."""

import sys

from .command.terminal import run


def main(arguments: list[str] | None = None) -> int:
    return run("mlx_sam_audio.command.judge:report", arguments)


if __name__ == "__main__":
    sys.exit(main())
