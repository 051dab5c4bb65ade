"""Talks to the operator API and to an agent's control socket, with the standard library only.

Every client verb pays for these imports, so nothing heavy is allowed here: yaml is loaded only
when a configuration file has to say where the API is, ssl only for an https address (what
`http.client` loads for itself aside).

ClientError (exit 1)   the API failed at something, and says at what
+-- BadAnswer (1)      what answered is not this API, or not whole
+-- Lost (1)           an act was sent and no answer came: it may or may not have been made
+-- Unusable (2)       a bad address, file or request; an unknown group; nothing was changed
+-- Unreachable (3)    nobody answered
+-- Denied (4)         no or a wrong token, or a role that may not do this
+-- Conflict (5)       the group changed between the plan and the act
+-- Refused (6)        a gate is closed, or nobody confirmed
"""

import json
import os
import re
import socket
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection, HTTPException, HTTPResponse
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

Json = dict[str, Any]

DEFAULT_SOCKET = Path("/run/lb-probe/api.sock")
DEFAULT_PORT = 8600
CONFIG_PLACES = (Path("probes.yaml"), Path("/etc/lb-probe/probes.yaml"))
READ_TIMEOUT_S = 10.0
# An act saves, publishes to every load balancer and reads each one back before it answers.
ACT_TIMEOUT_S = 90.0
# An agent runs the operator's programs before it answers; their own limit is theirs.
AGENT_ACT_TIMEOUT_S = 3600.0
LARGEST_ANSWER = 16 * 1024 * 1024
HISTORY_PAGE = 1000  # records: short enough that a change never waits long behind one
BREAK_GLASS = "lb-probe publish GROUP --to NODE --offline --reason 'why'"


class ClientError(Exception):
    """The API failed at something; the root of what can go wrong here.

    Attributes:
        exit_code: Exit status of the command (DESIGN, section 6).
    """

    exit_code = 1


class BadAnswer(ClientError):
    """What answered is not this API, or the answer is not whole."""


class Lost(ClientError):
    """An act was sent and no answer came: it may or may not have been made.

    Not `Unreachable`: a script may repeat a command that reached nobody, not this one.
    """


class Unusable(ClientError):
    """A bad address, file or request, or an unknown group; nothing was changed."""

    exit_code = 2


class Unreachable(ClientError):
    """Nobody answered."""

    exit_code = 3


class Denied(ClientError):
    """No or a wrong token, or a role that may not do this."""

    exit_code = 4


class Conflict(ClientError):
    """The group changed between the plan and the act.

    Attributes:
        generation: The one that is in force now; None where the API did not say.
    """

    exit_code = 5

    def __init__(self, message: str, generation: int | None = None) -> None:
        super().__init__(message)
        self.generation = generation


class Refused(ClientError):
    """A gate is closed, or nobody confirmed.

    Attributes:
        gates: Every gate, passed or not: id, passed, found, wanted.
        paste: The command line that would do it; empty where none would.
    """

    exit_code = 6

    def __init__(self, message: str, gates: Sequence[Json] = (), paste: str = "") -> None:
        super().__init__(message)
        self.gates = tuple(gates)
        self.paste = paste


# ------------------------------------------------------------------ where the API is
@dataclass(frozen=True, slots=True)
class Address:
    """Where the operator API listens.

    Attributes:
        scheme: http, https or unix.
        host: Name or address; empty for unix.
        path: The socket's path for unix; else a prefix for every path, mostly empty.
        source: Who said so, for messages.
    """

    scheme: str
    host: str
    port: int
    path: str
    source: str

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def find_config(given: Path | None) -> Path | None:
    """Return the configuration file to use: the given one, else the first that exists.

    Raises:
        Unusable: The given one is not there.
    """
    if given is None:
        return next((place for place in CONFIG_PLACES if place.is_file()), None)
    if not given.is_file():
        raise Unusable(f"{given}: no such file; give -c FILE or set LB_PROBE_CONFIG")
    return given


def find_addresses(
    config: Path | None, environ: Mapping[str, str] = os.environ
) -> tuple[Address, ...]:
    """Say where the API is: LB_PROBE_URL, else the configuration file, else the usual places.

    LB_PROBE_URL may hold several addresses, with blanks or commas between them: they are asked in
    this order until one answers.

    Args:
        config: The file given by -c or LB_PROBE_CONFIG; None looks in the usual places.
        environ: Names and values of the environment.

    Raises:
        Unusable: The URL or the file cannot be understood.
    """
    if urls := environ.get("LB_PROBE_URL", "").replace(",", " ").split():
        return tuple(parse_url(url, source="LB_PROBE_URL") for url in urls)
    file = find_config(config)
    # An operator may use the socket without being allowed to read the service's file.
    if file is not None and (config is not None or os.access(file, os.R_OK)):
        address = _address_in(file)
        if address is not None:
            return (address,)
    if DEFAULT_SOCKET.exists():
        return (Address("unix", "", 0, str(DEFAULT_SOCKET), "the default"),)
    return (Address("http", "127.0.0.1", DEFAULT_PORT, "", "the default"),)


def parse_url(url: str, source: str) -> Address:
    """Read `http://HOST:PORT`, `https://HOST:PORT` or `unix:///PATH`.

    Raises:
        Unusable: Something else; the message never repeats a password.
    """
    wanted = "use http://127.0.0.1:8600, https://HOST:8600 or unix:///run/lb-probe/api.sock"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise Unusable(f"{source} is not a URL; {wanted}") from None
    if not re.fullmatch("[!-~]+", url):
        raise Unusable(f"{source} holds blanks or signs that no URL may hold; {wanted}")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise Unusable(
            f"{source} carries a user, a query or a fragment; {wanted};"
            " a token goes into LB_PROBE_TOKEN"
        )
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
        return Address("unix", "", 0, unquote(parts.path), source)
    if parts.scheme not in ("http", "https") or not host:
        raise Unusable(f"{source} is {url!r}; {wanted}")
    usual = 443 if parts.scheme == "https" else 80
    return Address(
        parts.scheme, host, usual if port is None else port, parts.path.rstrip("/"), source
    )


def read_yaml(file: Path) -> Json:
    """Read a YAML mapping without judging what is in it.

    Raises:
        Unusable: It cannot be read, or is not a mapping.
    """
    import yaml  # 30 ms, and most client verbs never need it

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content = yaml.load(file.read_text("utf-8"), Loader=loader)  # noqa: S506 (a safe loader)
    except OSError as error:
        raise Unusable(f"{file}: cannot be read: {error.strerror}; give -c FILE") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Unusable(
            f"{file}: is not YAML: {_one_line(error)}; see `lb-probe check -c {file}`"
        ) from error
    if not isinstance(content, dict):
        raise Unusable(
            f"{file}: holds no settings; wanted a mapping; see `lb-probe check -c {file}`"
        )
    return content


def _address_in(file: Path) -> Address | None:
    api = read_yaml(file).get("api")
    if api is None:
        return None
    if not isinstance(api, dict):
        raise Unusable(f"{file}: api: found {api!r}; use a mapping with `listen` or `socket`")
    place, listen = api.get("socket"), api.get("listen")
    if isinstance(place, str):
        path = file.absolute().parent / place
        # One that is not there is named all the same where nothing else is: it is what is missing.
        if path.exists() or listen is None:
            return Address("unix", "", 0, str(path), f"api.socket in {file}")
    if listen is None:
        return None
    address = parse_url(f"http://{listen}", source=f"api.listen in {file}")
    # A listener on every address of the machine is asked on loopback.
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104
    return Address("http", here, address.port, "", address.source)


def find_token(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the bearer token of LB_PROBE_TOKEN, else of the file LB_PROBE_TOKEN_FILE names.

    Raises:
        Unusable: The file cannot be read, or holds no token; the message never shows it.
    """
    if token := environ.get("LB_PROBE_TOKEN", "").strip():
        return _checked(token, "LB_PROBE_TOKEN")
    file = environ.get("LB_PROBE_TOKEN_FILE")
    if not file:
        return None
    try:
        token = Path(file).read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not text"
        raise Unusable(
            f"LB_PROBE_TOKEN_FILE: {file}: {why}; name a file that you may read"
        ) from None
    return _checked(token, f"LB_PROBE_TOKEN_FILE: {file}")


def _checked(token: str, source: str) -> str:
    if not token or not all("!" <= sign <= "~" for sign in token):
        raise Unusable(
            f"{source}: is not a token; wanted one line of printable signs without blanks"
        )
    return token


# ------------------------------------------------------------------ the API
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
            raise _not_ours(self.address, "an explanation without `text`")
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
            raise _not_ours(self.address, "a page of history that leads nowhere")
        return found, cursor

    def plan(self, verb: str, group: str, order: Json) -> Json:
        """Ask what an act would do; changes nothing."""
        answer = self._send("POST", _group_path(group, verb), {**order, "dry_run": True})
        plan = answer.get("plan")
        if not isinstance(plan, dict) or not isinstance(answer.get("passed"), bool):
            raise _not_ours(self.address, "a plan without `plan` and `passed`")
        if type(plan.get("generation")) is not int:
            raise _not_ours(self.address, "a plan without `generation`")
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
            raise _not_ours(self.address, "a token without `id` and `token`")
        return answer

    def end_token(self, which: str) -> Json:
        """End a token by its id or its name."""
        return self._send("DELETE", f"/tokens/{quote(which, safe='')}", acts=True)

    def _get(self, path: str) -> Json:
        return self._send("GET", path)

    def _is_group(self, found: Json) -> Json:
        named = isinstance(found.get("name"), str) and isinstance(found.get("condition"), str)
        if not named:
            raise _not_ours(self.address, "a group without `name` and `condition`")
        for key in ("nodes", "adapters"):
            for item in _list_of(found, key, self.address):
                if not isinstance(item.get("name"), str):
                    raise _not_ours(self.address, f"{key} without `name`")
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
                raise _not_ours(self.address, "something that is not HTTP") from error
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
        raise _lost(self.address, found) if acts else _not_ours(self.address, found)

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
            f"no answer from {self.address} (from {self.address.source}): {_reason(error)}\n"
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
        raise _not_ours(address, f"no list of {key}")
    return items


def _not_ours(address: Address | Path, found: str) -> BadAnswer:
    return BadAnswer(
        f"{address} answered, but not as lb-probe does: found {found};"
        " check the address (LB_PROBE_URL, -c FILE) and that both sides have the same version"
    )


def _lost(address: Address, why: Exception | str) -> Lost:
    found = why if isinstance(why, str) else _reason(why)
    return Lost(
        f"{address} took the command, and no usable answer came: {found}\n"
        "it may or may not have been done: look at `lb-probe status` before you repeat it"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "nothing came within the time limit"
    text = getattr(error, "strerror", None) or _one_line(error)
    if type(error).__name__ == "SSLCertVerificationError":
        verify = getattr(error, "verify_message", "")
        return f"its certificate is not trusted: {verify}; LB_PROBE_CA_FILE names a CA file"
    return str(text)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# ------------------------------------------------------------------ the agent
def ask_agent(control: Path, request: Json, timeout_s: float = READ_TIMEOUT_S) -> Json:
    """Send one JSON line to an agent's control socket and return its one JSON line.

    Raises:
        Unreachable: Nobody listens there.
        Denied: The socket is its owner's only.
        ClientError: The agent says what is wrong, or answers nonsense.
    """
    for answer in follow_agent(control, request, timeout_s):
        return answer
    raise _not_ours(control, "an end without an answer")


def follow_agent(
    control: Path, request: Json, timeout_s: float | None = None
) -> Generator[Json, None, None]:
    """Send one JSON line to an agent's control socket and yield every line of its answer.

    Args:
        timeout_s: Longest silence; None waits for ever.

    Raises:
        Unreachable: Nobody listens there.
        Denied: The socket is its owner's only.
        ClientError: The agent says what is wrong, or answers nonsense.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(timeout_s)
            link.connect(str(control))
            link.sendall(json.dumps(request).encode() + b"\n")
            with link.makefile("rb") as lines:
                while line := lines.readline(LARGEST_ANSWER):
                    yield _agent_answer(control, line)
    except PermissionError as error:
        raise Denied(
            f"{control}: you may not open this socket; use the agent's own user"
        ) from error
    except OSError as error:
        raise Unreachable(
            f"no answer from the agent at {control}: {_reason(error)}\n"
            "check: is it running on this machine (systemctl status 'lb-probe-agent*')?"
            " is -c FILE the file it was started with?"
        ) from error


def _agent_answer(control: Path, raw: bytes) -> Json:
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError):
        answer = None
    if not raw.endswith(b"\n") or not isinstance(answer, dict):
        raise _not_ours(control, f"{len(raw)} bytes that are not one line of JSON")
    if "error" not in answer:
        return answer
    word, detail = str(answer["error"]), str(answer.get("detail") or answer["error"])
    told = f"the agent at {control} says: {detail}"
    if word == "refused":
        gates = answer.get("gates")
        kept = [g for g in gates if isinstance(g, dict)] if isinstance(gates, list) else []
        raise Refused(told, kept, str(answer.get("paste") or ""))
    kinds: dict[str, type[ClientError]] = {
        "invalid": Unusable,
        "not-found": Unusable,
        "unauthorized": Denied,
        "forbidden": Denied,
        "conflict": Conflict,
    }
    raise kinds.get(word, ClientError)(told)
