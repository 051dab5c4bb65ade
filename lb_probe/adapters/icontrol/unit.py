"""One BIG-IP unit and its iControl REST interface: a token, deadlines, answers that are judged.

Rules of this file, each of them a trap that other clients fell into:

* One token for each unit, used again and again, renewed before it ends and deleted at the end: a
  user may have a hundred, and who logs in for each cycle locks himself out within the hour.
* A 401 in the middle is answered by one new login, and the token from before is given back.
* A login that was refused is tried a second time and then no more until the password file changes,
  so that no account is locked by us.
* A login is never broken off: its token would live on without an owner.
* The answer to a login is never shown: older versions send the password back in it.
* Nothing that changes something is sent twice here. Whoever asks again has read first.

Source: iControl REST user guide; K44237337 (token limit), K02126317.
"""

import asyncio
import random
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from lb_probe.adapters.icontrol.answers import Busy, Denied, Json, judge, parsed
from lb_probe.adapters.icontrol.beside import Beside
from lb_probe.adapters.icontrol.wire import Answer, Wire
from lb_probe.ports import PublishError

TIMEOUT_S = 5.0
SAVE_S = 60.0  # a large configuration takes its time
RENEW_AT = 0.8  # of a token's life
LIFE_S = 1200.0  # where the unit does not say
LEAST_LIFE_S = 30.0  # a token this near its end is not used for a move
LOGINS = 2  # refusals of one password, after which nothing is tried any more
SECOND_LOGIN_S = 2.0
FULL_S = 30.0  # until a login is tried again that found no room for a token
SHORTEST_PAUSE_S = 0.25  # after a unit said that it is busy; it doubles with each time
LONGEST_PAUSE_S = 10.0
GOODBYE_S = 1.0
_TRANSACTION = "X-F5-REST-Coordination-Id"
_TOKEN = "X-F5-Auth-Token"  # noqa: S105  # a header's name
_NO_HEADER = "no user authentication header"
_FORGOTTEN = "X-F5-Auth-Token does not exist"
_LOGIN = ("shared", "authn", "login")
_TOKENS = ("shared", "authz", "tokens")


class Unit:
    """One unit.

    Args:
        url: Scheme, host and port, as https://10.0.0.5.
        password_file: Read for each login, so that a changed password needs no restart.
        now: Monotonic seconds.
        tls: What verifies the unit.
        server_name: The name in its certificate; the host of `url` when None.
        timeout_s: For each request, a save aside.

    Attributes:
        host: How it is called in messages.
    """

    def __init__(
        self,
        url: str,
        username: str,
        password_file: Path,
        *,
        now: Callable[[], float],
        tls: ssl.SSLContext,
        server_name: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._wire = Wire(url, tls, server_name)
        self.host = self._wire.host
        self._username = username
        self._password_file = password_file
        self._now = now
        self._timeout_s = timeout_s
        self._beside = Beside()
        self._token = ""
        self._renew_at = self._ends_at = 0.0
        self._login: asyncio.Future[PublishError | None] | None = None
        self._refused: tuple[object, int] = (None, 0)
        self._login_at = 0.0
        self._forgot = 0
        self._busy: tuple[str, int] = ("", 0)
        self._busy_until = 0.0
        self._saving = asyncio.Lock()
        self._saved_from = -1.0

    @property
    def runs(self) -> int:
        """Grows when it forgot our token or took no connections for a while: it has restarted."""
        return self._wire.returns + self._forgot

    async def get(self, *path: str, **query: str) -> Json:
        """Read one object.

        Raises:
            Unreachable, Missing, Denied, PublishError: As `ask`.
        """
        return await self.ask("GET", *path, query=query)

    async def ask(
        self,
        method: str,
        *path: str,
        body: Json | None = None,
        query: dict[str, str] | None = None,
        transaction: int | None = None,
        timeout_s: float | None = None,
    ) -> Json:
        """Send one request and return its JSON; only one that was not let in is repeated, once.

        Args:
            path: Segments behind /mgmt; a full path as /Common/epmm is one of them.
            transaction: Queue it there.

        Raises:
            Unreachable: No connection, or no whole answer in time: of a write the outcome is
                unknown. `Busy`, which is one of these, where the unit itself says so.
            Missing, Denied, PublishError: The unit says no.
        """
        if self._now() < self._busy_until:
            raise Busy(self._busy[0])
        try:
            return await self._let_in(method, path, body, query or {}, transaction, timeout_s)
        except Busy as error:
            self._was_busy(error)
            raise

    async def save(self, changed_at: float | None = None) -> None:
        """Save the running configuration.

        Args:
            changed_at: Loop seconds of the change; a save that began later has it already. Now
                where it is None.

        Raises:
            Unreachable, Denied, PublishError: As `ask`.
        """
        now = asyncio.get_running_loop().time
        changed_at = now() if changed_at is None else changed_at
        async with self._saving:
            if self._saved_from > changed_at:
                return
            begun = now()
            await self.ask("POST", "tm", "sys", "config", body={"command": "save"},
                           timeout_s=SAVE_S)  # fmt: skip
            self._saved_from = begun

    async def close(self) -> None:
        """Give the token back and end the connections."""
        if self._login is not None:
            await asyncio.wait([self._login], timeout=GOODBYE_S)
        await self._beside.close()
        token, self._token = self._token, ""
        if token:
            await self._give_back(token, token)
        await self._wire.close()

    def _was_busy(self, error: Busy) -> None:
        times = self._busy[1]
        if self._now() >= self._busy_until:
            longest = min(LONGEST_PAUSE_S, SHORTEST_PAUSE_S * 2**times)
            # Apart from each other, so that many pools do not come back at the same moment.
            pause = random.uniform(longest / 2, longest)  # noqa: S311  # no secret
            self._busy_until = self._now() + pause
            self._busy = (str(error), min(times + 1, 10))

    # -------------------------------------------------------------- the token
    async def _let_in(
        self,
        method: str,
        path: tuple[str, ...],
        body: Json | None,
        query: dict[str, str],
        transaction: int | None,
        timeout_s: float | None,
    ) -> Json:
        headers = {} if transaction is None else {_TRANSACTION: str(transaction)}

        def send(token: str) -> Coroutine[Any, Any, Json]:
            given = {_TOKEN: token, **headers}
            return self._send(method, path, body, query, given, timeout_s or self._timeout_s)

        token = await self._given_token()
        try:
            found = await send(token)
        except Denied as error:
            # Spurious ones are known under load, and a token may have been deleted by others.
            # Nothing was done: a request that is not let in is not carried out.
            self._forgot += token == self._token and _FORGOTTEN in str(error)
            token = await self._given_token(instead_of=token)
            try:
                found = await send(token)
            except Denied as error:
                raise Busy(f"{error}, with a new token neither; asked again") from None
        self._busy = ("", 0)
        return found

    async def _given_token(self, instead_of: str = "") -> str:
        """Return a token that is good for a while, another one than `instead_of`."""
        left_s = self._ends_at - self._now()
        if not self._token or self._token == instead_of or left_s < LEAST_LIFE_S:
            error = await asyncio.shield(self._logging_in())
            if error is not None:
                raise error
        elif self._now() >= self._renew_at:
            self._logging_in()  # beside: what comes of it is seen the next time
        return self._token

    def _logging_in(self) -> "asyncio.Future[PublishError | None]":
        if self._login is None or self._login.done():
            self._login = self._beside.start(self._log_in())
        return self._login

    async def _log_in(self) -> None:
        password, seen = await asyncio.to_thread(self._read_password)
        if self._refused[0] == seen and (self._is_refused or self._now() < self._login_at):
            raise Denied(self._told_refused())
        began = self._now()
        body = {"username": self._username, "password": password, "loginProviderName": "tmos"}
        answer = await self._wire.exchange("POST", _LOGIN, body, {}, {}, self._timeout_s)
        found = self._judged_login(answer, seen)
        token = found.get("token")
        told = token if isinstance(token, dict) else {}
        if not isinstance(name := told.get("token"), str) or not name:
            raise PublishError(f"{self.host}: found no token in the answer to a login")
        self._refused = (None, 0)
        seconds = told.get("timeout")
        life_s = float(seconds) if isinstance(seconds, int | float) and seconds > 0 else LIFE_S
        old, self._token = self._token, name
        self._renew_at, self._ends_at = began + RENEW_AT * life_s, began + life_s
        if old:
            self._beside.start(self._give_back(old, name))

    def _read_password(self) -> tuple[str, object]:
        """Return the password, and what changes when somebody wrote the file anew."""
        try:
            text = self._password_file.read_text().strip()
            return text, (text, self._password_file.stat().st_mtime_ns)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or type(error).__name__
            raise PublishError(f"{self._password_file} cannot be read: {why}") from None

    def _judged_login(self, answer: Answer, seen: object) -> Json:
        found, text = parsed(answer.raw)
        if answer.status == 200 and found is not None:
            return found
        if answer.status == 401 and (found is None or _NO_HEADER in text):
            # Nobody looked at the password: said of all requests while the service starts, and of
            # some under load.
            error = Busy(f"{self.host}: login: the REST service lets nobody in now; asked again")
            self._was_busy(error)
            raise error
        if answer.status in (400, 401, 403):
            # Too many tokens is a matter of time; all else may be a step towards a lock.
            times = self._refused[1] + 1 if self._refused[0] == seen else 1
            is_full = "maximum active login tokens" in text
            self._refused = (seen, 0 if is_full else times)
            self._login_at = self._now() + (FULL_S if is_full else SECOND_LOGIN_S)
            raise Denied(self._told_refused())
        if found is None or answer.status in (502, 503, 504) or answer.location:
            raw = answer.raw if found is None else b""
            where = f"{self.host}: login"
            try:
                judge(where, self._username, answer.status, raw, answer.location)
            except Busy as error:
                self._was_busy(error)
                raise
        raise PublishError(
            f"{self.host}: found {answer.status} in answer to a login; is it a BIG-IP?"
        )

    @property
    def _is_refused(self) -> bool:
        return self._refused[1] >= LOGINS

    def _told_refused(self) -> str:
        """Say why nobody logs in now. The unit's own words are left out: they may hold a secret."""
        times = self._refused[1]
        who = f"{self.host} refused the login of {self._username}"
        if times == 0:
            return (
                f"{who}: it has the most tokens that it may have; end what else logs in with it,"
                f" or wait: tried again every {FULL_S:.0f}s"
            )
        if times < LOGINS:
            return f"{who}; tried once more after {SECOND_LOGIN_S:g}s"
        return (
            f"{who} {LOGINS} times; not tried any more, so that the account is not locked: correct"
            f" {self._password_file}, or touch it once the account is right"
        )

    async def _give_back(self, token: str, by: str) -> None:
        try:
            await self._send("DELETE", (*_TOKENS, token), None, {}, {_TOKEN: by}, GOODBYE_S)
        except PublishError:
            return  # it ends by itself within twenty minutes

    async def _send(
        self,
        method: str,
        path: tuple[str, ...],
        body: Json | None,
        query: dict[str, str],
        headers: dict[str, str],
        timeout_s: float,
    ) -> Json:
        answer = await self._wire.exchange(method, path, body, query, headers, timeout_s)
        shown = path[:3] if path[:3] == _TOKENS else path
        where = f"{self.host}: {method} {' '.join(shown)}"
        return judge(where, self._username, answer.status, answer.raw, answer.location)
