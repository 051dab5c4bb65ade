"""Users, tokens and what they may do: restjavad's part, one for each unit.

A token is 26 letters of base32, good for 1200 s from its making (not from its last use), and for up
to 36000 s when it is patched. A user has at most 100 of them. They are not synced to the other
unit, and a restart of restjavad does not lose them; a reboot does.
"""

import base64
import json
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from emulator.clock import DeviceClock
from emulator.errors import Refusal, html, rest_refused

Json = dict[str, Any]
LIFETIME_S = 1200
LONGEST_S = 36000
TOKENS = "/mgmt/shared/authz/tokens"
NO_CREDENTIAL = "Authorization failed: no user authentication header or token detected. "
EXPIRED = "Authentication failed: Password expired. Update password via /mgmt/shared/authz/users."
AUTHORIZATION_REQUIRED = "F5 Authorization Required"  # what a device says for Unauthorized


@dataclass
class User:
    """An account.

    Attributes:
        role: One of the keys of `roles.MAY`.
        is_expired: The password is: every login is refused, saying so.
    """

    name: str
    password: str
    role: str = "admin"
    is_expired: bool = False

    @property
    def link(self) -> str:
        if self.name == "admin":
            return "https://localhost/mgmt/shared/authz/users/admin"
        provider = uuid.uuid5(uuid.NAMESPACE_DNS, "tmos")
        return (
            f"https://localhost/mgmt/cm/system/authn/providers/tmos/{provider}/users/"
            f"{uuid.uuid5(uuid.NAMESPACE_DNS, self.name)}"
        )


@dataclass
class Token:
    """One login; times in seconds of the device."""

    word: str
    user: User
    started: float
    start_time: str
    timeout_s: int = LIFETIME_S
    generation: int = 1

    def item(self) -> Json:
        expires = int((self.started + self.timeout_s) * 1000) * 1000
        return {
            "token": self.word,
            "name": self.word,
            "userName": self.user.name,
            "authProviderName": "tmos",
            "user": {"link": self.user.link},
            "timeout": self.timeout_s,
            "startTime": self.start_time,
            "address": "127.0.0.1",
            "partition": "[All]",
            "generation": self.generation,
            "lastUpdateMicros": int(self.started * 1_000_000),
            "expirationMicros": expires,
            "kind": "shared:authz:tokens:authtokenitemstate",
            "selfLink": f"https://localhost{TOKENS}/{self.word}",
        }


class Logins:
    """The accounts and live tokens of one unit.

    Attributes:
        tokens: The live ones, by word.
        limit: Live tokens that one user may have.
        made: How many tokens were ever handed out: a client should need one.
        refusals: How many logins were refused.
        lock_after: So many wrong passwords in a row lock a user out; 0: never, as a fresh device.
        locked: Who is locked out. The right password gets the same words as a wrong one.
        is_leaky: A refused login is answered with the password in it, as old versions do.
    """

    def __init__(self, clock: DeviceClock) -> None:
        self._clock = clock
        self.users = {
            user.name: user
            for user in (
                User("admin", "secret"),
                User("lb-probe", "probe-secret", "resource-admin"),
                User("manager", "manager-secret", "manager"),
                User("operator", "operator-secret", "operator"),
                User("guest", "guest-secret", "guest"),
            )
        }
        self.tokens: dict[str, Token] = {}
        self.limit = 100
        self.made = 0
        self.refusals = 0
        self.lock_after = 0
        self.locked: set[str] = set()
        self.is_leaky = False
        self._failed: dict[str, int] = {}

    # ------------------------------------------------------------ requests
    def login(self, body: Any) -> Json:
        """Answer POST /mgmt/shared/authn/login."""
        given: Mapping[str, Any] = body if isinstance(body, Mapping) else {}
        name, provider = given.get("username"), given.get("loginProviderName", "tmos")
        if provider != "tmos":
            self.refusals += 1
            raise rest_refused(401, "Authentication failed.", errorStack=[])
        user = self._authenticated(str(name), given.get("password"))
        if user is None:
            raise rest_refused(401, "Authentication failed.", originalRequestBody=self._echo(given))
        if user.is_expired:
            raise rest_refused(401, EXPIRED)
        token = self._new(user)
        return {
            "username": user.name,
            "loginReference": {
                "link": "https://localhost/mgmt/cm/system/authn/providers/tmos/"
                "1f44a60e-11a7-3c51-a49f-82983026b41b/login"
            },
            "loginProviderName": "tmos",
            "token": token.item(),
            "generation": 0,
            "lastUpdateMicros": 0,
        }

    def _echo(self, given: Mapping[str, Any]) -> str:
        shown = {"username": given.get("username")}
        if self.is_leaky:
            shown["password"] = given.get("password")
        shown |= {"loginProviderName": "tmos", "generation": 0, "lastUpdateMicros": 0}
        return json.dumps(shown, separators=(",", ":"))

    def _authenticated(self, name: str, password: Any) -> User | None:
        user = self.users.get(name)
        if user is None or user.password != password or name in self.locked:
            self.refusals += 1
            self._failed[name] = self._failed.get(name, 0) + 1
            if self.lock_after and self._failed[name] >= self.lock_after:
                self.locked.add(name)
            return None
        self._failed[name] = 0
        return user

    def _new(self, user: User) -> Token:
        self._forget_expired()
        mine = [token for token in self.tokens.values() if token.user is user]
        if len(mine) >= self.limit:
            who = uuid.uuid5(uuid.NAMESPACE_DNS, user.name)
            raise rest_refused(400, f"user {who} has reached maximum active login tokens")
        word = base64.b32encode(secrets.token_bytes(17)).decode()[:26]
        token = Token(word, user, self._clock.now(), self._clock.stamp())
        self.tokens[word] = token
        self.made += 1
        return token

    def _forget_expired(self) -> None:
        now = self._clock.now()
        for word, token in list(self.tokens.items()):
            if now >= token.started + token.timeout_s:
                del self.tokens[word]

    def tokens_answer(self, method: str, word: str | None, body: Any) -> Json:
        """Answer for the collection of tokens, or for one of them."""
        self._forget_expired()
        if word is None:
            return self._all_tokens(method)
        token = self.tokens.get(word)
        if token is None:
            raise rest_refused(404, f"Token not found: {word}")
        if method == "DELETE":
            del self.tokens[word]
        elif method == "PATCH":
            token.timeout_s = _timeout(body)
            token.generation += 1
        elif method != "GET":
            raise rest_refused(405, "Method not allowed")
        return token.item()

    def _all_tokens(self, method: str) -> Json:
        items = [token.item() for token in self.tokens.values()]
        if method == "DELETE":
            self.tokens.clear()
        elif method != "GET":
            raise rest_refused(405, "Method not allowed")
        return {
            "items": items,
            "generation": self.made,
            "kind": "shared:authz:tokens:authtokencollectionstate",
            "selfLink": f"https://localhost{TOKENS}",
        }

    # ------------------------------------------------------------ who is asking
    def who(self, headers: Mapping[str, str], raw_path: str) -> User:
        """Return the user that a request comes from. A token beats Basic, whatever that says.

        Raises:
            Refusal: Nobody, or nobody known.
        """
        self._forget_expired()
        if word := headers.get("X-F5-Auth-Token"):
            token = self.tokens.get(word)
            if token is None:
                raise rest_refused(401, "X-F5-Auth-Token does not exist.")
            return token.user
        authorization = headers.get("Authorization", "")
        if not authorization.startswith("Basic "):
            raise unauthenticated(raw_path)
        user = self._basic(authorization.removeprefix("Basic "))
        if user is None:
            raise bad_basic()
        return user

    def _basic(self, encoded: str) -> User | None:
        try:
            name, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except ValueError:
            return None
        user = self._authenticated(name, password)
        # Basic is for administrators of iControl REST alone; others need a token.
        return user if user is not None and user.role == "admin" and not user.is_expired else None


def unauthenticated(raw_path: str) -> Refusal:
    where = f"Uri:http://localhost:8100{raw_path} Referrer:127.0.0.1 Sender:127.0.0.1"
    return rest_refused(401, NO_CREDENTIAL + where)


def bad_basic() -> Refusal:
    """Return what the web server says before anything behind it is asked."""
    text = (
        "This server could not verify that you are authorized to access the document requested. "
        "Either you supplied the wrong credentials (e.g., bad password), or your browser doesn't "
        "understand how to supply the credentials required."
    )
    return html(401, "401 Unauthorized", text)


def _timeout(body: Any) -> int:
    given = body.get("timeout") if isinstance(body, Mapping) else None
    try:
        seconds = int(given)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise rest_refused(400, f"invalid timeout: {given}") from None
    if not 0 < seconds <= LONGEST_S:
        raise rest_refused(400, f"The token timeout must be between 1 and {LONGEST_S} seconds.")
    return seconds
