"""Who may ask: pure ASGI, before all else.

A page of another site can make a browser send requests here, and by a name that it lets point to
this machine even read the answers. So the Host must be ours, and where a browser says from where a
request comes (Origin, Sec-Fetch-Site), that must be our own page, or one that was allowed.
"""

import hmac
import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .refusal import Refusal, answer

LOOPBACK = ("localhost", "127.0.0.1", "::1")
SAFE = ("GET", "HEAD")
PUBLIC = re.compile(r"/(web/.*)?")  # the page, which holds nothing of anybody
# what elements of a page load, or links, neither of which can send a header
LOADED = re.compile(
    r"/v1/files/\w+/(content|frame)"
    r"|/v1/jobs/\w+/(stems/[\w-]+\.(wav|flac|mp4)|labels\.txt|report\.json|all\.zip)"
)
# of the style that wavesurfer puts beside its pictures; it holds their height
STYLE = "'sha256-XGW/cX2BkTPWNNT3NdyASrPEWZfPnKdPJaJ2aN7R+v8='"
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; "
    f"media-src 'self' blob:; connect-src 'self'; style-src 'self' {STYLE}; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
ALLOWED = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST, PATCH, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Last-Event-ID, Range",
    "Access-Control-Max-Age": "600",
}
EXPOSED = "Location, Link, Retry-After, Content-Range, X-Audio-Stems, X-Columns, X-Bins, X-Top, "
EXPOSED += "X-Nyquist, X-Rate, X-Channels, X-Start, X-Samples"


class Guard:
    """hosts: names, beside those of this machine's loopback, by which it may be called; origins: of
    other pages that may use it; token: what everybody must know, if there is one."""

    def __init__(
        self,
        app: ASGIApp,
        token: str | None = None,
        hosts: Sequence[str] = (),
        origins: Sequence[str] = (),
    ):
        self._app, self._token = app, token
        self._hosts = {host.lower().strip("[]") for host in (*LOOPBACK, *hosts)}
        self._origins = set(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = MutableHeaders(scope=message)
                if PUBLIC.fullmatch(scope["path"]):
                    own.setdefault("Cache-Control", "no-cache")
                for name, value in HEADERS.items():
                    own.setdefault(name, value)
                if self._origins:
                    own.add_vary_header("Origin")
                if origin in self._origins:
                    own["Access-Control-Allow-Origin"] = origin
                    own["Access-Control-Expose-Headers"] = EXPOSED
                    own["Cross-Origin-Resource-Policy"] = "cross-origin"
            await send(message)

        try:
            self._check_host(scope, headers)
            self._check_origin(scope, headers)
            asked = "access-control-request-method" in headers
            if scope["method"] == "OPTIONS" and origin in self._origins and asked:
                return await Response(status_code=204, headers=ALLOWED)(scope, receive, guarded)
            self._check_token(scope, headers)
            self._check_kind(scope, headers)
        except Refusal as error:
            return await answer(error)(scope, receive, guarded)
        await self._app(scope, receive, guarded)

    def _check_host(self, scope: Scope, headers: Headers) -> None:
        given = headers.getlist("host")
        host = name_of(given[0]) if len(given) == 1 else ""
        # no name points to an address that somebody wrote himself
        own = is_address(host) and scope.get("server") and host == scope["server"][0]
        if not (host in self._hosts or own):
            text = "this server does not go by that name: start it with --allow-host, if it may"
            raise Refusal(403, "host", text)

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        """A browser says from which page a request comes, but for links and what a page loads."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin is not None:
            allowed = origin in self._origins
            scheme, found, place = origin.partition("://")
            ours = found and scheme in ("http", "https") and place == headers["host"]
            if not (ours or allowed):
                text = "pages of other sites may not use this server: --allow-origin allows one"
                raise Refusal(403, "origin", text)
            if allowed:
                return
        if site not in (None, "same-origin", "none"):
            visit = scope["method"] in SAFE and headers.get("sec-fetch-mode") == "navigate"
            if not visit:
                text = "pages of other sites may not use this server"
                raise Refusal(403, "origin", text)

    def _check_token(self, scope: Scope, headers: Headers) -> None:
        safe, path = scope["method"] in SAFE, scope["path"]
        if self._token is None or safe and PUBLIC.fullmatch(path):
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        given = given.strip() if kind.lower() == "bearer" else ""
        if not given and safe and LOADED.fullmatch(path):
            query = parse_qs(scope["query_string"].decode("latin-1"))
            given = query.get("token", [""])[0]
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            text = "this server wants its token: Authorization: Bearer ..."
            raise Refusal(401, "token", text, WWW_Authenticate="Bearer")

    def _check_kind(self, scope: Scope, headers: Headers) -> None:
        """What any page's form can send is none of the kinds that are read here."""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        empty = headers.get("content-length") == "0"
        form = kind == "application/x-www-form-urlencoded" and not empty
        if scope["method"] not in SAFE and form:
            text = "forms are sent as multipart/form-data, all else as application/json"
            raise Refusal(415, "kind", text)


def name_of(host: str) -> str:
    """A Host without its port: "[::1]:80" is ::1."""
    match = re.fullmatch(r"(?:\[([0-9a-f:.]+)\]|([^\[\]:/@]+))(?::\d{1,5})?", host.lower())
    return "" if match is None else match[1] or match[2]


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
