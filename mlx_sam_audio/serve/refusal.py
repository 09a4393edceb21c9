"""Requests that are refused: a status, one sentence, and what programs tell them by."""

from starlette.responses import JSONResponse

from ..errors import SAMAudioError


class Refusal(SAMAudioError):
    """`code` is one word, `param` the field that it is about, if it is about one."""

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, **headers: object
    ):
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        self.headers = {name.replace("_", "-"): str(value) for name, value in headers.items()}


def invalid(message: str, param: str | None = None) -> Refusal:
    return Refusal(400, "invalid", message, param)


def missing(what: str) -> Refusal:
    return Refusal(404, "not_found", f"there is no {what}: it was removed, or never there")


def no_room() -> Refusal:
    return Refusal(507, "no_room", "the server's disk is full")


def body(error: SAMAudioError) -> dict:
    """What JSON tells of it."""
    status = getattr(error, "status", 400)
    return {
        "message": str(error),
        "type": "invalid_request_error" if status < 500 else "server_error",
        "param": getattr(error, "param", None),
        "code": getattr(error, "code", "invalid"),
    }


def answer(error: SAMAudioError) -> JSONResponse:
    status = getattr(error, "status", 400)
    return JSONResponse({"error": body(error)}, status, getattr(error, "headers", None))
