"""One job of a server."""

import asyncio
import threading
from dataclasses import dataclass, field

from ..engine.progress import Progress

ENDS = ("done", "failed", "cancelled")


@dataclass(eq=False)
class Job:
    """What is kept of a job, as JSON; and what is known only as long as the server runs."""

    id: str
    kind: str
    title: str | None
    request: dict
    name: str  # of the input
    film: str | None  # the name in its folder of what has the pictures
    size: dict | None  # of them
    seconds: float
    work: float
    created: float
    status: str = "queued"
    started: float | None = None
    finished: float | None = None
    error: dict | None = None
    notes: list[str] = field(default_factory=list)
    spans: list = field(default_factory=list)
    predicted: bool = False
    absent: list = field(default_factory=list)
    stems: dict[str, dict] = field(default_factory=dict)
    sample_rate: int | None = None
    channels: int | None = None

    def __post_init__(self):
        self.stop = threading.Event()
        self.progress: Progress | None = None
        self.forgotten = False
        self.tried: set[object] = set()  # other processes, which could not make it
        self.watchers: set[asyncio.Event] = set()
        self.making = asyncio.Lock()  # one file of it at a time

    @property
    def ended(self) -> bool:
        return self.status in ENDS
