"""The server as a program of its own, for the bundle of an app:

pyinstaller --onedir --name separator examples/mac/separator.py
"""

import multiprocessing
import sys

from mlx_sam_audio.server import main

if __name__ == "__main__":
    multiprocessing.freeze_support()  # in a frozen program, processes start it again
    sys.exit(main())
