"""python -m mlx_sam_audio.server --port 8765"""

import sys

from .command.terminal import run


def main(arguments: list[str] | None = None) -> int:
    return run("mlx_sam_audio.serve.command:serve", arguments)


if __name__ == "__main__":
    sys.exit(main())
