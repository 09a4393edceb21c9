"""A Hugging Face hub of our own, on this machine, for tests."""

import base64
import hashlib
import json
import os
import re
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote, unquote

SMALL = 4096  # bytes; larger files are in the hub's store of large files (LFS)


@dataclass
class Fault:
    """What befalls requests: a status, or the end of the connection within a file's bytes."""

    path: str  # a regular expression, to be found in the request's path
    status: int | None = None
    cut: int | None = None  # after so many bytes
    times: int | None = 1  # how often it is still to happen; None: always
    code: str = ""  # X-Error-Code, with a status: clients choose their exception by it
    method: str = ""  # of these requests only


@dataclass
class Request:
    """What a client asked, and what it got."""

    method: str
    path: str
    range: str | None
    token: bool
    received: int  # bytes of the request's body
    sent: int = 0  # bytes of the answer's body
    file: str | None = None  # whose bytes these are


@dataclass
class Repo:
    """The commits of the branches, and the files of the commits."""

    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.branches["main"]]


class Hub:
    """Has repos that huggingface_hub downloads and uploads, and remembers what it was asked."""

    def __init__(self):
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.uploads: dict[str, bytes] = {}  # large files by SHA-256, which commits then name
        self.lock = threading.Lock()
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.hub = self
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        # To a client this is another host, as the real hub's store is: it gets no token.
        self.store = f"http://localhost:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self) -> None:
        """From now on nothing listens at `url`."""
        self.server.shutdown()
        self.server.server_close()

    def add(
        self, name, files: dict[str, bytes] | Path, commit="", gated=False, branch="main"
    ) -> str:
        """Makes files, or those of a folder, a branch's newest commit. Returns its 40 digits."""
        if isinstance(files, Path):
            paths = [path for path in files.rglob("*") if path.is_file()]
            files = {path.relative_to(files).as_posix(): path.read_bytes() for path in paths}
        contents = repr(sorted((path, sha256(data)) for path, data in files.items()))
        commit = commit or hashlib.sha1(contents.encode()).hexdigest()
        repo = self.repos.setdefault(name, Repo())
        repo.gated |= gated
        repo.commits[commit] = dict(files)
        repo.branches[branch] = commit
        return commit

    def downloaded(self, repo: str = "") -> list[str]:
        """The files, of a repo or of all, whose bytes were sent."""
        return sorted({seen.file for seen in self.requests if seen.file and repo in seen.path})

    def sent(self, file: str, repo: str = "") -> int:
        """How many bytes of a file were sent, by all requests together."""
        return sum(seen.sent for seen in self.requests if seen.file == file and repo in seen.path)

    def fault(self, asked: Request, cuts: bool) -> Fault | None:
        """The first fault that befalls a request, one time less from now on."""
        with self.lock:
            for fault in self.faults:
                applies = (fault.cut is not None) == cuts and fault.method in ("", asked.method)
                if applies and fault.times != 0 and re.search(fault.path, asked.path):
                    fault.times = fault.times and fault.times - 1
                    return fault
        return None

    def environment(self, cache: Path) -> dict[str, str]:
        """The environment of a process that uses this hub, a cache of its own, and no token."""
        theirs = ("HF_", "HUGGING", "TRANSFORMERS_OFFLINE")
        others = {name: text for name, text in os.environ.items() if not name.startswith(theirs)}
        return others | dict(
            HF_ENDPOINT=self.url,
            HF_HOME=str(cache),
            HF_HUB_CACHE=str(cache),
            HF_HUB_DISABLE_TELEMETRY="1",
            HF_HUB_DISABLE_XET="1",
            NO_PROXY="127.0.0.1,localhost",
        )


def pointed_at(hub: Hub, monkeypatch, cache: Path) -> None:
    """Makes huggingface_hub in this process use a hub, a cache of its own, and no token. It does
    not wait before it tries again, and resumes files less than 10 MB large, too."""
    from huggingface_hub import constants, file_download, hf_api
    from huggingface_hub.utils import _http

    for name in os.environ.keys() - hub.environment(cache).keys():
        monkeypatch.delenv(name)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    settings = dict(
        ENDPOINT=hub.url,
        HUGGINGFACE_CO_URL_TEMPLATE=template,
        HF_HUB_CACHE=str(cache),
        HF_TOKEN_PATH=str(cache / "token"),
        HF_HUB_OFFLINE=False,
        HF_HUB_DISABLE_TELEMETRY=True,
        HF_HUB_DISABLE_XET=True,
        DOWNLOAD_CHUNK_SIZE=2**14,
    )
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value, raising=False)  # 0.30 has not all
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(hf_api.api, "endpoint", hub.url)  # for huggingface_hub.model_info etc.
    for module in (file_download, _http):
        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda seconds: None))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def is_large(name: str, size: int) -> bool:
    return size > SMALL or name.endswith((".safetensors", ".pt"))


def about(name: str, data: bytes) -> dict:
    """What model_info and the tree say of a file. Of a large one git has but a pointer."""
    large, digest, size = is_large(name, len(data)), sha256(data), len(data)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {size}\n"
    blob = pointer.encode() if large else data
    oid = hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()
    lfs = dict(sha256=digest, oid=digest, size=size, pointerSize=len(blob)) if large else None
    return dict(type="file", path=name, rfilename=name, size=size, oid=oid, blobId=oid, lfs=lfs)


class Answer(Exception):
    """What a client gets: bytes or JSON, and headers, of which A_B="" is A-B. Some are raised."""

    def __init__(self, value: object = b"", status: int = 200, **headers: str):
        self.body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.status, self.headers = status, headers


def refusal(status: int, code: str, message: str, **headers: str) -> Answer:
    told = dict(X_Error_Code=code, X_Error_Message=message)
    return Answer({"error": message}, status, **told, **headers)


class Server(ThreadingHTTPServer):
    request_queue_size = 64  # more than the threads of huggingface_hub
    hub: Hub


class Handler(BaseHTTPRequestHandler):
    """Answers one request. The connection ends with it, so that none outlives the hub."""

    protocol_version = "HTTP/1.1"
    server: Server

    def handle(self):
        with suppress(ConnectionError):  # the client has gone
            super().handle()

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.hub = self.server.hub
        path, _, self.query = self.path.partition("?")
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        token = self.headers.get("Authorization", "").startswith("Bearer ")
        part = self.headers.get("Range")
        self.asked = Request(self.command, path, part, token, len(self.body))
        self.hub.requests.append(self.asked)
        try:
            self.send(self.answer())
        except Answer as refused:
            self.send(refused)

    do_HEAD = do_POST = do_PUT = do_GET

    def answer(self) -> Answer:
        path, method = self.asked.path, self.command.replace("HEAD", "GET")
        if fault := self.hub.fault(self.asked, cuts=False):
            return refusal(fault.status, fault.code, "as the test wants it")
        for route, pattern, respond in ROUTES:
            if route == method and (match := re.fullmatch(pattern, path)):
                found = match.groupdict(default="main")
                return respond(self, **{name: unquote(text) for name, text in found.items()})
        return refusal(404, "", f"cannot {method} {path}")

    def send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        answer.headers |= dict(Content_Length=str(len(answer.body)), Connection="close")
        for name, text in answer.headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        end = len(answer.body) if self.command != "HEAD" else 0
        if self.asked.file and (fault := self.hub.fault(self.asked, cuts=True)):
            end = min(fault.cut, end)
        self.asked.sent = end  # before the client has all and a test looks
        self.wfile.write(answer.body[:end])

    def find(self, repo: str, revision: str, writes: bool = False) -> tuple[Repo, str]:
        """A repo, and the commit of a revision. To those without a token it may be private."""
        found, token = self.hub.repos.get(repo), self.asked.token
        if not found or (writes and not token):
            raise refusal(404 if token else 401, "RepoNotFound", "Repository not found")
        commit = found.branches.get(revision, revision)
        if commit not in found.commits:
            raise refusal(404, "RevisionNotFound", "Invalid rev id")
        return found, commit

    def info(self, repo: str, revision: str) -> Answer:
        found, commit = self.find(repo, revision)
        files = [about(name, data) for name, data in found.commits[commit].items()]
        if "blobs" not in self.query:
            files = [{"rfilename": file["rfilename"]} for file in files]
        gated = "auto" if found.gated else False
        return Answer(dict(id=repo, sha=commit, private=False, gated=gated, siblings=files))

    def tree(self, repo: str, revision: str) -> Answer:
        found, commit = self.find(repo, revision)
        return Answer([about(name, data) for name, data in found.commits[commit].items()])

    def resolve(self, repo: str, revision: str, file: str) -> Answer:
        """A small file, or where a large one is."""
        found, commit = self.find(repo, revision)
        if found.gated and not self.asked.token:
            return refusal(401, "GatedRepo", f"Access to model {repo} is restricted.")
        data = found.commits[commit].get(file)
        if data is None:
            return refusal(404, "EntryNotFound", "Entry not found", X_Repo_Commit=commit)
        if not is_large(file, len(data)):
            return self.stored(repo, commit, file)
        linked = dict(X_Linked_Etag=f'"{sha256(data)}"', X_Linked_Size=str(len(data)))
        place = f"{self.hub.store}/cdn/{repo}/{commit}/{quote(file)}"
        return Answer(b"", 302, Location=place, X_Repo_Commit=commit, **linked)

    def stored(self, repo: str, revision: str, file: str) -> Answer:
        """A file, or the part of it that is asked."""
        data = self.hub.repos[repo].commits[revision][file]
        size = len(data)
        etag = sha256(data) if is_large(file, size) else about(file, data)["oid"]
        headers = dict(ETag=f'"{etag}"', X_Repo_Commit=revision, Accept_Ranges="bytes")
        part = re.fullmatch(r"bytes=(\d*)-(\d*)", self.asked.range or "")
        if part:
            first, last = part.groups()
            start = int(first) if first else max(size - int(last), 0)
            end = min(int(last) + 1, size) if first and last else size
            if start >= end:
                return Answer(b"", 416, Content_Range=f"bytes */{size}")
            headers |= dict(Content_Range=f"bytes {start}-{end - 1}/{size}")
            data = data[start:end]
        self.asked.file = file if self.command == "GET" else None
        return Answer(data, 206 if part else 200, **headers)

    def create(self) -> Answer:
        if not self.asked.token:
            return refusal(401, "", "Invalid username or password")
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'tester'}/{asked['name']}"
        url, there = f"{self.hub.url}/{name}", name in self.hub.repos
        if not there:
            self.hub.add(name, {})
        return Answer({"url": url}, 409 if there else 200)

    def preupload(self, repo: str, revision: str) -> Answer:
        """Which files are large."""
        self.find(repo, revision, writes=True)
        files = json.loads(self.body)["files"]
        for file in files:
            mode = "lfs" if is_large(file["path"], file["size"]) else "regular"
            file |= dict(uploadMode=mode, shouldIgnore=False)
        return Answer({"files": files})

    def batch(self, repo: str) -> Answer:
        """Where large files are to be put, if they are not there."""
        self.find(repo, "main", writes=True)
        objects = json.loads(self.body)["objects"]
        for file in objects:
            if file["oid"] not in self.hub.uploads:
                file["actions"] = {"upload": {"href": f"{self.hub.store}/lfs/{file['oid']}"}}
        return Answer({"transfer": "basic", "objects": objects})

    def put(self, oid: str) -> Answer:
        if sha256(self.body) != oid:
            return refusal(400, "", "these are not the bytes that were announced")
        self.hub.uploads[oid] = self.body
        return Answer()

    def commit(self, repo: str, revision: str) -> Answer:
        found, commit = self.find(repo, revision, writes=True)
        files = dict(found.commits[commit])
        for step in map(json.loads, self.body.splitlines()):
            value = step["value"]
            if step["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif step["key"] != "header":
                files[value["path"]] = self.hub.uploads[value["oid"]]
        new = self.hub.add(repo, files, branch=revision)
        return Answer({"commitOid": new, "commitUrl": f"{self.hub.url}/{repo}/commit/{new}"})


REPO, AT = "(?P<repo>[^/]+(?:/[^/]+)?)", "(?P<revision>[^/]+)"
ROUTES = [
    ("GET", "/api/whoami-v2", lambda _: Answer({"type": "user", "name": "tester", "orgs": []})),
    ("GET", f"/api/models/{REPO}(/revision/{AT})?", Handler.info),
    ("GET", f"/api/models/{REPO}/tree/{AT}", Handler.tree),
    ("GET", f"/{REPO}/resolve/{AT}/(?P<file>.+)", Handler.resolve),
    ("GET", rf"/cdn/{REPO}/(?P<revision>\w{{40}})/(?P<file>.+)", Handler.stored),
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", lambda _: Answer({"errors": [], "warnings": []})),
    ("POST", f"/api/models/{REPO}/preupload/{AT}", Handler.preupload),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]+)", Handler.put),
    ("POST", f"/api/models/{REPO}/commit/{AT}", Handler.commit),
]
