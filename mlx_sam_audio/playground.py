"""python -m mlx_sam_audio.playground"""

import sys

from .command.terminal import run


def main(arguments: list[str] | None = None) -> int:
    return run("mlx_sam_audio.serve.command:play", arguments)


if __name__ == "__main__":
    sys.exit(main())
