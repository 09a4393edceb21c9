"""What `python -m mlx_sam_audio.server` and `mlx-sam-audio-play` do."""

import argparse
import asyncio
import contextlib
import errno
import ipaddress
import json
import logging
import os
import re
import secrets
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from ..command.terminal import STOPS, Parser, say
from ..engine import memory
from ..engine.group import launched
from ..errors import SAMAudioError
from ..files import reason

NEEDED = ("starlette", "uvicorn", "python_multipart")
HOST, PORT, NEXT = "127.0.0.1", 8765, 20  # ports that the playground tries
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
EXPIRE, TIDY = 24 * 3600.0, 60.0
PATIENCE = 5  # seconds that open answers have at the end


def parser(play: bool) -> Parser:
    made = Parser(
        prog="mlx-sam-audio-play" if play else "python -m mlx_sam_audio.server",
        description="Separate sounds in the browser, on this machine."
        if play
        else "Separate sounds over HTTP.",
    )
    add = made.add_argument_group("where it is").add_argument
    add("--host", default=HOST, help="an address of this machine (%(default)s)")
    free = ", or one of the next that is free" if play else ""
    add("--port", type=port, default=PORT, help=f"0: any that is free (%(default)s{free})")
    add("--no-ui", action="store_true", help="only the API, without the page")
    if play:
        add("--no-browser", action="store_true", help="print the address, but open no browser")
    add("--announce", action="store_true", help="print one line of JSON: port, token and url")
    add("--exit-with-stdin", action="store_true", help="stop when stdin is closed")
    add = made.add_argument_group("who may use it").add_argument
    add("--token", default=os.environ.get("SAM_AUDIO_TOKEN") or None,
        help="what everybody must know ($SAM_AUDIO_TOKEN)")  # fmt: skip
    add("--allow-host", action="append", default=[], metavar="NAME",
        help="another name that this server goes by")  # fmt: skip
    add("--allow-origin", action="append", default=[], type=origin, metavar="ORIGIN",
        help="a site whose pages may use it, like https://example.org")  # fmt: skip
    add = made.add_argument_group("the model").add_argument
    add("-m", "--model", help="where a request names none (the largest installed that fits)")
    add("--max-memory", type=memory.parse, metavar="SIZE", help="of a job (what the machine has)")
    add("--idle", type=duration, default=600.0, metavar="TIME",
        help="after which a model is unloaded (10m)")  # fmt: skip
    add = made.add_argument_group("what it keeps and takes").add_argument
    add("--keep", type=Path, metavar="DIR", help="files and jobs, for good (none: they go with it)")
    add("--expire", type=duration, metavar="TIME",
        help="after which a file or job is removed (24h; never with --keep)")  # fmt: skip
    add("--max-upload", type=memory.parse, default=2 * 2**30, metavar="SIZE", help="a file (2GB)")
    add("--max-seconds", type=duration, default=3600.0, metavar="TIME", help="a recording (1h)")
    add("--max-folder", type=memory.parse, default=20 * 2**30, metavar="SIZE", help="all (20GB)")
    add("--max-queue", type=int, default=16, metavar="N", help="jobs that wait (%(default)s)")
    add("--lease", type=duration, default=600.0, metavar="TIME",
        help="with mlx.launch: after which a process that shows nothing is gone (10m)")  # fmt: skip
    return made


def port(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**16:
        raise ValueError
    return number


def duration(text: str) -> float:
    """Seconds of "600", "10m", "24h"."""
    match = re.fullmatch(r"\s*(\d*\.?\d+)\s*([smhd]?)\s*", text)
    if not match or not 0 < float(match[1]) < 1e9:
        raise SAMAudioError(f"{text!r} is no time: write it like 90s, 10m or 24h")
    return float(match[1]) * UNITS[match[2]]


def origin(text: str) -> str:
    if not re.fullmatch(r"https?://[^/\s*]+", text):
        raise SAMAudioError(f"{text!r} is no origin: write it like https://example.org")
    return text


def serve(arguments: list[str]) -> int | None:
    return main(arguments, play=False)


def play(arguments: list[str]) -> int | None:
    return main(arguments, play=True)


def main(arguments: list[str], play: bool) -> int | None:
    options = parser(play).parse_args(arguments)
    lacking = [name for name in NEEDED if find_spec(name) is None]
    if lacking:
        raise SAMAudioError(
            f"the server needs {', '.join(lacking)}: pip install 'mlx-sam-audio[serve]'"
        )
    if options.token == "":
        raise SAMAudioError("--token is empty: anybody would know it")
    if options.token and not (options.token.isascii() and options.token.isprintable()):
        raise SAMAudioError("--token must be of ASCII characters: a header holds no others")
    if options.max_queue < 1:
        raise SAMAudioError("--max-queue is 1 or more")
    if play and options.token is None:
        options.token = secrets.token_urlsafe(16)  # other users of this machine do not know it
    if not is_loopback(options.host) and options.token is None:
        raise SAMAudioError(
            f"--host {options.host} is open to other machines: give a --token that they must know"
        )
    rank, size = launched()
    if size > 1 and options.keep is None:
        raise SAMAudioError("several processes serve from one folder: give --keep one that all see")
    if size > 1 and options.exit_with_stdin:
        raise SAMAudioError("mlx.launch has no stdin to share: leave --exit-with-stdin out")
    os.umask(0o077)  # what lies on disk is the user's alone
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
    )
    for name in ("uvicorn", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from .catalogue import Catalogue
    from .notes import collected
    from .others import others, work
    from .shelf import opened
    from .worker import Worker

    catalogue = Catalogue(None if rank else options.model, options.max_memory)
    worker = Worker(catalogue, options.max_memory, options.idle)
    if rank:
        with collected():
            work(options.keep, rank, options.lease, worker, catalogue)
        return 0
    with opened(options.keep) as folder, listening(options, NEXT if play else 1) as sock:
        with collected(), others(folder, size, options.lease, catalogue) as rest:
            queue, app = built(options, folder, catalogue, [worker, *rest])
            asyncio.run(run(options, sock, play, queue, app))
    return 0


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextlib.contextmanager
def listening(options: argparse.Namespace, tries: int) -> Iterator[socket.socket]:
    """A socket at the address, or at one of the next ports."""
    host, first = options.host, options.port
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in range(first, min(first + (tries if first else 1), 2**16)):
        sock = socket.socket(kind)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, number))
            sock.listen()
        except OSError as error:
            sock.close()
            if error.errno == errno.EADDRINUSE and number < first + tries - 1:
                continue
            raise SAMAudioError(
                f"cannot listen at {host}:{number}: {reason(error)}; --port chooses another one"
            ) from None
        with sock:
            yield sock
        return


async def run(options: argparse.Namespace, sock: socket.socket, play: bool, queue, app) -> None:
    """Serve until somebody says stop."""
    from .app import tidy

    server = http(app)

    def stop() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True
        queue.stop()

    loop = asyncio.get_running_loop()
    for number in STOPS:
        loop.add_signal_handler(number, stop)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    if options.exit_with_stdin:
        threading.Thread(target=until_closed, args=[loop, stop], daemon=True).start()
    queue.start(loop)
    tidying = asyncio.create_task(tidy(queue, min(TIDY, (expires(options) or TIDY) / 4)))
    announce(options, sock, play)
    try:
        await server.serve([sock])
    finally:
        tidying.cancel()
        queue.stop()
        await asyncio.to_thread(queue.join)


def expires(options: argparse.Namespace) -> float | None:
    """Seconds after which files and jobs are removed."""
    return EXPIRE if options.expire is None and options.keep is None else options.expire


def built(options: argparse.Namespace, folder: Path, catalogue, makers):
    """The queue of jobs, and the application around it."""
    from .app import Limits, Site, application
    from .guard import Guard
    from .queue import Queue
    from .shelf import Shelf

    shelf = Shelf(folder, expires(options), options.max_folder)
    queue = Queue(shelf, options.max_queue, makers)
    limits = Limits(options.max_upload, options.max_seconds, options.max_memory)
    app = application(Site(shelf, queue, catalogue, limits), not options.no_ui)
    hosts = [options.host, *options.allow_host]
    return queue, Guard(app, options.token, hosts, options.allow_origin)


def http(app):
    """A uvicorn server that leaves signals to us."""
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    return Server(
        uvicorn.Config(
            app,
            http=H11Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=PATIENCE,
        )
    )


def announce(options: argparse.Namespace, sock: socket.socket, play: bool) -> None:
    """Say where it is, and open it."""
    number = sock.getsockname()[1]
    host = f"[{options.host}]" if ":" in options.host else options.host
    url = f"http://{host}:{number}/"
    page = f"{url}#token={options.token}" if options.token else url
    if options.announce:
        print(json.dumps({"port": number, "token": options.token, "url": url}), flush=True)
    else:
        say(page if play else url)
    if play and not options.no_browser and not options.no_ui:
        threading.Thread(target=webbrowser.open, args=[page], daemon=True).start()


def until_closed(loop: asyncio.AbstractEventLoop, stop) -> None:
    """Read stdin to its end, and stop then."""
    with contextlib.suppress(OSError, ValueError):
        while os.read(0, 2**16):  # sys.stdin's lock could not be had at the end
            pass
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(stop)
