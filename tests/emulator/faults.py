"""What goes wrong on the way, by script: the n-th request that matches gets one of these.

    emulator.faults.next(busy())                                   # the next request, of any kind
    unit.faults.next(cut_after(), method="PATCH", path="/transaction/")
    unit.faults.next(spurious_401(), path="/ltm/pool", skip=1, times=2)

A fault answers instead of the device (nothing is applied), or spoils what the device answered
(everything is applied). Requests to the control interface are Python calls, never HTTP.
"""

from dataclasses import dataclass

from emulator.errors import BUSY, NO_MCPD, Refusal, html, not_registered, refused, rest_refused
from emulator.logins import bad_basic, unauthenticated

RESTARTING = "Configuration Utility restarting..."


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        name: For the log of requests.
        answer: Said instead of what the device would say.
        is_applied: The request is carried out all the same, and only its answer is another.
        delay_s: Wait this long before anything is done.
        reply_s: Wait this long after it was done, before it is said.
        cut: Reset the connection instead of answering.
        spoil: `truncated` (half the body), `html` (a page, status 200), `garbage` (no JSON),
            `login-page` (302 to the login page), `list` (JSON, but no object), `empty`.
        revokes: Forget all tokens first, and then answer what that means.
    """

    name: str
    answer: Refusal | None = None
    is_applied: bool = False
    delay_s: float = 0.0
    reply_s: float = 0.0
    cut: bool = False
    spoil: str = ""
    revokes: bool = False


def busy() -> Fault:
    """Return the 503 of icrd that any request may meet, GETs too."""
    text = "There is an active asynchronous task executing."
    return Fault("busy", refused(503, text, BUSY))


def restarting() -> Fault:
    return Fault("restarting", html(503, RESTARTING, RESTARTING))


def restjavad_down() -> Fault:
    """Return the web server's 401, which everybody gets while restjavad is not there."""
    return Fault("restjavad-down", bad_basic())


def mcpd_lost() -> Fault:
    text = "The connection to mcpd has been lost, try again."
    return Fault("mcpd-lost", refused(500, text, NO_MCPD))


def async_timeout(*, is_applied: bool) -> Fault:
    """Return Jetty's error page: whether the request was carried out cannot be told from it."""
    page = html(500, "Error 500 AsyncContext timeout", "SERVLET: com.f5.rest.app.RestServerServlet")
    return Fault("async-timeout", page, is_applied=is_applied)


def spurious_401(path: str = "/mgmt/tm/ltm/virtual") -> Fault:
    """Return what good credentials meet under load."""
    return Fault("spurious-401", unauthenticated(path))


def token_revoked() -> Fault:
    return Fault("token-revoked", revokes=True)


def unregistered(path: str = "/mgmt/tm/ltm/pool/~Common~core") -> Fault:
    """Return restjavad's 404 while it starts."""
    return Fault("unregistered", not_registered(path))


def lost_object(what: str = "Pool (/Common/core)") -> Fault:
    """Return the 404 that an existing object gets while mcpd restarts."""
    return Fault("lost-object", refused(404, f"01020036:3: The requested {what} was not found.", 3))


def token_limit() -> Fault:
    text = "user bfd47ab5-b430-323c-83ea-0d7b87b6e244 has reached maximum active login tokens"
    return Fault("token-limit", rest_refused(400, text))


def provisioning() -> Fault:
    text = "A previous provisioning operation is in progress. Try again when the BIGIP is active."
    return Fault("provisioning", refused(400, f"01071003:3: {text}", 3))


def cut_before() -> Fault:
    """Reset the connection before anything is applied."""
    return Fault("cut-before", cut=True)


def cut_after() -> Fault:
    """Apply the request, and reset the connection instead of answering."""
    return Fault("cut-after", cut=True, is_applied=True)


def slow(seconds: float) -> Fault:
    """Carry it out at once, and answer only after this long."""
    return Fault("slow", reply_s=seconds, is_applied=True)


def late(seconds: float) -> Fault:
    """Carry it out only after this long, whether the client still waits or not."""
    return Fault("late", delay_s=seconds, is_applied=True)


def hollow() -> Fault:
    """Answer 200 without what matters, as old versions do for a member that is not there."""
    body = {"kind": "tm:ltm:pool:members:membersstate", "generation": 1}
    return Fault("hollow", Refusal(200, body))


def created_not_found() -> Fault:
    """Create it and answer 404, as 12.1 does for members of DNS pools."""
    return Fault("created-not-found", refused(404, "Object not found - ", 1), is_applied=True)


def truncated() -> Fault:
    """Announce the whole body, send half of it, and close."""
    return Fault("truncated", spoil="truncated", is_applied=True)


def html_200() -> Fault:
    return Fault("html-200", spoil="html", is_applied=True)


def garbage() -> Fault:
    return Fault("garbage", spoil="garbage", is_applied=True)


def json_list() -> Fault:
    return Fault("json-list", spoil="list", is_applied=True)


def empty() -> Fault:
    return Fault("empty", spoil="empty", is_applied=True)


def login_page() -> Fault:
    """Redirect to the login page of the web interface; nothing is applied."""
    return Fault("login-page", spoil="login-page")


@dataclass
class _Planned:
    fault: Fault
    method: str
    path: str
    skip: int
    times: int


class Faults:
    """The script. Rules are looked at in the order they were given; the first that matches wins."""

    def __init__(self) -> None:
        self._planned: list[_Planned] = []

    def next(
        self, fault: Fault, *, method: str = "", path: str = "", skip: int = 0, times: int = 1
    ) -> None:
        """Plan a fault.

        Args:
            method: Only for this one; empty: any.
            path: Only where the raw path holds this.
            skip: Let this many matching requests through first.
            times: For so many requests in a row.
        """
        self._planned.append(_Planned(fault, method, path, skip, times))

    def clear(self) -> None:
        self._planned.clear()

    @property
    def pending(self) -> int:
        """How many faults have not happened yet."""
        return sum(planned.times for planned in self._planned)

    def take(self, method: str, raw_path: str) -> Fault | None:
        """Return the fault that this request meets, if any."""
        for planned in self._planned:
            if planned.method not in ("", method) or planned.path not in raw_path:
                continue
            if planned.skip:
                planned.skip -= 1
                continue
            planned.times -= 1
            if not planned.times:
                self._planned.remove(planned)
            return planned.fault
        return None
