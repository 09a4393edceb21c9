"""The pictures of docs/playground.md, of the page with the demo's example, in Chromium.

python -m benchmarks.screenshots    writes docs/playground-light.png, -dark.png and -narrow.png
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mlx_sam_audio.errors import SAMAudioError

DOCS = Path(__file__).parent.parent / "docs"
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUMS += ("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",)
OPTIONS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync
--disable-background-networking --disable-component-update
--autoplay-policy=no-user-gesture-required""".split()
PLAY = ["mlx_sam_audio.playground", "--no-browser", "--announce", "--exit-with-stdin", "--port=0"]
PICTURES = {
    "light": ("light", 1280, 900),
    "dark": ("dark", 1280, 900),
    "narrow": ("dark", 390, 844),
}


def chromium() -> str | None:
    """A browser that is installed."""
    return next(filter(None, map(shutil.which, CHROMIUMS)), None)


@contextlib.contextmanager
def browsing() -> Iterator:
    """The browser, without a window, by Playwright."""
    from playwright.sync_api import sync_playwright

    preload = os.environ.pop("LD_PRELOAD", None)  # a library that it cannot bear
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=OPTIONS)
        if preload is not None:
            os.environ["LD_PRELOAD"] = preload
        yield browser
        browser.close()


@contextlib.contextmanager
def playground(home: Path) -> Iterator[tuple[str, str]]:
    """A server of one's own with the demo model only: where it is, and its token."""
    environment = {**os.environ, "SAM_AUDIO_HOME": str(home)}
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    with subprocess.Popen([sys.executable, "-m", *PLAY], **pipes) as process:
        try:
            told = json.loads(process.stdout.readline())
            yield f"http://127.0.0.1:{told['port']}", told["token"]
        finally:
            process.stdin.close()
            process.wait(30)


def prepare(page) -> None:
    """Separates the example, with a span."""
    page.click("#example")
    page.wait_for_selector(".lane")
    page.click("text=Fast")
    page.click("#add-span")
    page.fill("#spans [name=start]", "0.3")
    page.fill("#spans [name=end]", "1.45")
    page.keyboard.press("Tab")
    page.click("#separate")
    page.wait_for_selector(".lane.isolated", timeout=300_000)
    page.click(".lane.rest .track", position={"x": 150, "y": 30})


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Take the pictures of docs/playground.md.")
    parser.add_argument("--out", type=Path, default=DOCS, help="a folder (default: docs)")
    options = parser.parse_args(argv)
    if chromium() is None:
        raise SAMAudioError("there is no Chromium: apt install chromium")
    with tempfile.TemporaryDirectory() as home, playground(Path(home)) as (origin, token):
        with browsing() as browser:
            for name, (theme, width, height) in PICTURES.items():
                size = {"width": width, "height": height}
                page = browser.new_page(viewport=size, color_scheme=theme)
                page.goto(f"{origin}/#token={token}")
                page.wait_for_selector("body[data-ready]")
                if name == "light":
                    prepare(page)
                else:
                    page.click(".take-name")
                    page.wait_for_selector(".lane.isolated")
                if name == "dark":
                    page.click("#show-spectrum")
                page.mouse.move(0, 0)
                page.wait_for_timeout(1500)
                path = options.out / f"playground-{name}.png"
                page.screenshot(path=path, full_page=True)
                print(f"{path} {path.stat().st_size / 1024:.0f} KiB")
                page.close()


if __name__ == "__main__":
    main()
