"""The operator API over HTTP or its UNIX socket."""

import json
import os
import socket
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection, HTTPException, HTTPResponse
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import quote, urlencode

from lb_probe.client.address import Address, find_addresses, find_token
from lb_probe.client.errors import (
    ClientError,
    Conflict,
    Denied,
    Json,
    Lost,
    Refused,
    Unreachable,
    Unusable,
    not_ours,
    reason_of,
)

READ_TIMEOUT_S = 10.0
# An act saves, publishes to every load balancer and reads each one back before it answers.
ACT_TIMEOUT_S = 90.0
LARGEST_ANSWER = 16 * 1024 * 1024
HISTORY_PAGE = 1000  # records: short enough that a change never waits long behind one
BREAK_GLASS = "lb-probe publish GROUP --to NODE --offline --reason 'why'"


class _UnixConnection(HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclass(frozen=True, slots=True)
class Client:
    """The operator API (DESIGN, section 7).

    Every method raises `ClientError`, mostly one of its kinds. A timeout holds for each step on
    the wire, not for the whole.

    Attributes:
        others: Asked in turn where nobody answers at `address`; never after a command was sent.
    """

    address: Address
    token: str | None = field(default=None, repr=False)
    read_timeout_s: float = READ_TIMEOUT_S
    act_timeout_s: float = ACT_TIMEOUT_S
    others: tuple[Address, ...] = ()

    def groups(self) -> list[Json]:
        """Return every group."""
        return [self._is_group(g) for g in _list_of(self._get("/groups"), "groups", self.address)]

    def group(self, name: str) -> Json:
        """Return one group."""
        return self._is_group(self._get(_group_path(name)))

    def explain(self, name: str) -> Json:
        """Return why the group is as it is; `text` is for people."""
        answer = self._get(_group_path(name, "explain"))
        if not isinstance(answer.get("text"), str):
            raise not_ours(self.address, "an explanation without `text`")
        return answer

    def history(
        self, group: str | None, limit: int, *, since: str | None = None, everything: bool = False
    ) -> list[Json]:
        """Return the newest records, newest last.

        Args:
            since: Nothing older than `7d` or a time.
            everything: Observations and marks of life as well.
        """
        return self._page(group, limit, since, 1 if everything else None)[0]

    def whole_history(self, group: str | None = None, since: str | None = None) -> list[Json]:
        """Return every record there is, newest last, fetched page by page."""
        pages: list[list[Json]] = []
        before: int | None = None
        while True:
            page, before = self._page(group, HISTORY_PAGE, since, 1, before)
            pages.append(page)
            if before is None:
                return [record for page in reversed(pages) for record in page]

    def _page(
        self,
        group: str | None,
        limit: int,
        since: str | None = None,
        everything: int | None = None,
        before: int | None = None,
    ) -> tuple[list[Json], int | None]:
        """Return a page, and what to give as `before` for the one before it; None at the first."""
        asked = {"group": group, "limit": limit, "since": since, "all": everything}
        query = {key: str(v) for key, v in {**asked, "before": before}.items() if v is not None}
        answer = self._get(f"/history?{urlencode(query)}")
        found, cursor = _list_of(answer, "history", self.address), answer.get("before")
        if cursor is None:
            return found, None
        if type(cursor) is not int or not 1 <= cursor < (before or cursor + 1):
            raise not_ours(self.address, "a page of history that leads nowhere")
        return found, cursor

    def plan(self, verb: str, group: str, order: Json) -> Json:
        """Ask what an act would do; changes nothing."""
        answer = self._send("POST", _group_path(group, verb), {**order, "dry_run": True})
        plan = answer.get("plan")
        if not isinstance(plan, dict) or not isinstance(answer.get("passed"), bool):
            raise not_ours(self.address, "a plan without `plan` and `passed`")
        if type(plan.get("generation")) is not int:
            raise not_ours(self.address, "a plan without `generation`")
        return answer

    def act(self, verb: str, group: str, order: Json) -> Json:
        """Do it; return the group as it is afterwards."""
        body = {**order, "dry_run": False}
        return self._is_group(self._send("POST", _group_path(group, verb), body, acts=True))

    def tokens(self) -> list[Json]:
        """Return every token, without its secret."""
        return _list_of(self._get("/tokens"), "tokens", self.address)

    def new_token(self, order: Json) -> Json:
        """Make a token; the answer's `token` is its text, shown this once."""
        answer = self._send("POST", "/tokens", order, acts=True)
        if not isinstance(answer.get("token"), str) or not isinstance(answer.get("id"), str):
            raise not_ours(self.address, "a token without `id` and `token`")
        return answer

    def end_token(self, which: str) -> Json:
        """End a token by its id or its name."""
        return self._send("DELETE", f"/tokens/{quote(which, safe='')}", acts=True)

    def _get(self, path: str) -> Json:
        return self._send("GET", path)

    def _is_group(self, found: Json) -> Json:
        named = isinstance(found.get("name"), str) and isinstance(found.get("condition"), str)
        if not named:
            raise not_ours(self.address, "a group without `name` and `condition`")
        for key in ("nodes", "adapters"):
            for item in _list_of(found, key, self.address):
                if not isinstance(item.get("name"), str):
                    raise not_ours(self.address, f"{key} without `name`")
        return found

    def _send(
        self, method: str, path: str, body: Json | None = None, *, acts: bool = False
    ) -> Json:
        *most, last = (self.address, *self.others)
        for address in most:
            try:
                return replace(self, address=address, others=()).send(method, path, body, acts=acts)
            except Unreachable:
                continue  # nothing was sent: the next one may be asked
        return replace(self, address=last, others=()).send(method, path, body, acts=acts)

    def send(self, method: str, path: str, body: Json | None, *, acts: bool) -> Json:
        """Ask at `address` alone.

        Args:
            acts: It may change something, so that a lost answer must not look like no answer.
        """
        timeout_s = self.act_timeout_s if acts else self.read_timeout_s
        try:
            connection = self._connect(timeout_s)
        except OSError as error:
            raise self._no_answer(error) from error
        with closing(connection):
            try:
                status, kind, raw = self._exchange(connection, method, path, body)
            except (OSError, HTTPException) as error:
                if acts:
                    raise _lost(self.address, error) from error
                if isinstance(error, OSError):
                    raise self._no_answer(error) from error
                raise not_ours(self.address, "something that is not HTTP") from error
        return self._judge(status, kind, raw, acts=acts)

    def _connect(self, timeout_s: float) -> HTTPConnection:
        address = self.address
        connection: HTTPConnection
        if address.scheme == "unix":
            connection = _UnixConnection(address.path, timeout_s)
        elif address.scheme == "https":
            import ssl
            from http.client import HTTPSConnection

            try:
                context = ssl.create_default_context(cafile=os.environ.get("LB_PROBE_CA_FILE"))
                if certificate := os.environ.get("LB_PROBE_CERT_FILE"):
                    key = os.environ.get("LB_PROBE_KEY_FILE")
                    context.load_cert_chain(certificate, key, password="")
            except (OSError, ValueError) as error:
                raise Unusable(
                    f"LB_PROBE_CA_FILE, LB_PROBE_CERT_FILE, LB_PROBE_KEY_FILE: {error}; name PEM"
                    " files that this user may read"
                ) from None
            connection = HTTPSConnection(
                address.host, address.port, timeout=timeout_s, context=context
            )
        else:
            connection = HTTPConnection(address.host, address.port, timeout=timeout_s)
        try:
            connection.connect()
        except OSError:
            connection.close()
            raise
        return connection

    def _exchange(
        self, connection: HTTPConnection, method: str, path: str, body: Json | None
    ) -> tuple[int, str, bytes]:
        headers = {"Accept": "application/json", "Connection": "close"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        payload = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            payload = json.dumps(body).encode()
        prefix = "" if self.address.scheme == "unix" else self.address.path
        connection.request(method, f"{prefix}/api/v1{path}", payload, headers)
        with connection.getresponse() as response:
            return response.status, response.headers.get_content_type(), _read(response)

    def _judge(self, status: int, kind: str, raw: bytes, *, acts: bool) -> Json:
        try:
            answer = json.loads(raw)
        except (ValueError, RecursionError):
            answer = None
        if isinstance(answer, dict) and status == 200:
            return answer
        if isinstance(answer, dict) and isinstance(answer.get("error"), str):
            raise self._error(status, answer)
        if status in (401, 403):
            raise self._error(status, {})
        found = f"HTTP {status}, {kind}, {len(raw)} bytes, which is not this API's JSON"
        # A proxy's own error page may hide that the prober behind it did the work.
        raise _lost(self.address, found) if acts else not_ours(self.address, found)

    def _error(self, status: int, answer: Json) -> ClientError:
        detail = str(answer.get("detail") or answer.get("error") or f"HTTP {status}")
        if status in (401, 403):
            return Denied(f"{self.address} denied this: {detail}\n{self._how_to_be_let_in(status)}")
        if status == 409 and answer["error"] == "conflict":
            now = answer.get("generation")
            return Conflict(detail, now if isinstance(now, int) else None)
        if status == 409:
            gates = answer.get("gates")
            kept = [g for g in gates if isinstance(g, dict)] if isinstance(gates, list) else []
            return Refused(detail, kept, str(answer.get("paste") or ""))
        if 400 <= status < 500:
            return Unusable(f"{detail}\nnothing was changed; `lb-probe status` lists the groups")
        return ClientError(f"{self.address} failed: HTTP {status}: {detail}; see the prober's log")

    def _how_to_be_let_in(self, status: int) -> str:
        if status == 403:
            return "use a token whose role and groups allow it; nothing was changed"
        if self.token is None:
            return (
                "no token was sent; set LB_PROBE_TOKEN_FILE to your token's file, or use"
                " api.socket as root or the service's own user"
            )
        return (
            "the token is none that this prober knows, or it has ended; see LB_PROBE_TOKEN,"
            " LB_PROBE_TOKEN_FILE and, as root on the prober, `lb-probe token list`"
        )

    def _no_answer(self, error: OSError) -> ClientError:
        if isinstance(error, PermissionError):
            return Denied(
                f"{self.address}: you may not open this socket; use root or the service's own"
                " user, or set LB_PROBE_URL and LB_PROBE_TOKEN_FILE"
            )
        return Unreachable(
            f"no answer from {self.address} (from {self.address.source}): {reason_of(error)}\n"
            f"check: is the prober running here (systemctl status lb-probe-prober)? is the address"
            f" right (LB_PROBE_URL, -c FILE)?\n"
            f"to move traffic without it: {BREAK_GLASS}"
        )


def connect(config: Path | None, environ: Mapping[str, str] = os.environ) -> Client:
    """Return a client for the API that the environment and the configuration name.

    Raises:
        Unusable: Address or token cannot be understood, or the token would travel in clear.
    """
    addresses, token = find_addresses(config, environ), find_token(environ)
    for address in addresses:
        if token is not None and address.scheme == "http" and not _is_here(address.host):
            raise Unusable(
                f"{address} would carry the token unencrypted over the network; use https://,"
                " or a tunnel that ends on this machine"
            )
    return Client(addresses[0], token, others=addresses[1:])


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _group_path(name: str, *rest: str) -> str:
    if not name or name in (".", ".."):
        raise Unusable(f"{name!r} is not a group; `lb-probe status` lists the groups")
    return "/".join(["/groups", quote(name, safe=""), *rest])


def _read(response: HTTPResponse) -> bytes:
    raw = response.read(LARGEST_ANSWER + 1)
    if len(raw) > LARGEST_ANSWER:
        raise HTTPException(f"more than {LARGEST_ANSWER} bytes")
    # read(amount) returns short without a word when the sender hangs up early.
    if response.length:
        raise HTTPException(f"{response.length} bytes are missing")
    return raw


def _list_of(found: Json, key: str, address: Address) -> list[Json]:
    items = found.get(key)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise not_ours(address, f"no list of {key}")
    return items


def _lost(address: Address, why: Exception | str) -> Lost:
    found = why if isinstance(why, str) else reason_of(why)
    return Lost(
        f"{address} took the command, and no usable answer came: {found}\n"
        "it may or may not have been done: look at `lb-probe status` before you repeat it"
    )
