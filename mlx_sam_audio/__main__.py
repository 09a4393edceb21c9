"""python -m mlx_sam_audio song.flac -d vocals"""

import sys

from .separate import main

if __name__ == "__main__":
    sys.exit(main())
