"""What a device answers when it refuses: two shapes of JSON, and HTML from the web server.

icrd and mcpd say `code, message, errorStack, apiError`; restjavad says `code, message, referer,
restOperationId, kind`. Clients that know only one of them are why both are here.
"""

from typing import Any

BAD_REQUEST = 26214401
NO_MCPD = 32768001
BUSY = 32964609


class Refusal(Exception):
    """A request that is refused; `body` is what the client reads.

    Attributes:
        status: The HTTP status; `code` in the body repeats it.
        body: JSON as a dict, or HTML as text.
    """

    def __init__(self, status: int, body: dict[str, Any] | str) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body

    @property
    def message(self) -> str:
        return self.body if isinstance(self.body, str) else str(self.body["message"])


def refused(status: int, message: str, api_error: int = BAD_REQUEST) -> Refusal:
    """Return a refusal of icrd's or mcpd's."""
    body = {"code": status, "message": message, "errorStack": [], "apiError": api_error}
    return Refusal(status, body)


def rest_refused(status: int, message: str, **more: object) -> Refusal:
    """Return a refusal of restjavad's."""
    body = {"code": status, "message": message} | more
    body |= {"referer": "127.0.0.1", "restOperationId": 7945916, "kind": ":resterrorresponse"}
    return Refusal(status, body)


def not_found(title: str, which: str) -> Refusal:
    return refused(404, f"01020036:3: The requested {title} ({which}) was not found.", 3)


def not_registered(path: str) -> Refusal:
    """Return what a path gets that restjavad does not know, or not yet: both look alike."""
    shown = path.removeprefix("/mgmt").replace("~", "?")
    return rest_refused(404, f"Public URI path not registered: {shown}")


def html(status: int, title: str, text: str) -> Refusal:
    page = (
        '<!DOCTYPE HTML PUBLIC "-//IETF//DTD HTML 2.0//EN">\n<html><head>\n'
        f"<title>{title}</title>\n</head><body>\n<h1>{title}</h1>\n<p>{text}</p>\n</body></html>\n"
    )
    return Refusal(status, page)
