"""python -m convert --hf-path facebook/sam-audio-small --mlx-path out/"""

import sys

from mlx_sam_audio.command.terminal import run


def main(arguments: list[str] | None = None) -> int:
    return run("convert.command:run", arguments)


if __name__ == "__main__":
    sys.exit(main())
