"""python -m mlx_sam_audio.separate -i mix.wav -d "dog barking" -o dog.wav"""

import sys

from .command.terminal import run


def main(arguments: list[str] | None = None) -> int:
    return run("mlx_sam_audio.command.separate:main", arguments)


if __name__ == "__main__":
    sys.exit(main())
