"""What PyInstaller must know to freeze an app that uses this package: it finds this by itself."""

from pathlib import Path


def get_hook_dirs() -> list[str]:
    return [str(Path(__file__).parent)]
