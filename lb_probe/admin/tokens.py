"""Tokens that were made by a verb: shown once, kept as a hash, with role, groups and an end.

`lbp_ID_SECRET`: the ID says which, for lists and for scanners that look for leaked secrets; the
secret is 256 random bits, so a plain SHA-256 of it is enough. They live in a file of their own
beside the store, written whole under another name and renamed.

Source: OWASP ASVS 5.0, 11.4 and 7.2.
"""

import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lb_probe.admin.auth import Actor
from lb_probe.core.rank import Rank, rank_of
from lb_probe.ports import Invalid, LbProbeError, NotFound

FORMAT = 1
_TOKEN = re.compile(r"lbp_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class TokenError(LbProbeError):
    """The file of tokens cannot be read or written."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token, without its secret.

    Attributes:
        groups: The groups it is good for; empty for all.
        expires_wall: UTC seconds since 1970; None for never.
    """

    id: str
    name: str
    role: str
    sha256: str
    created_wall: float
    created_by: str
    groups: tuple[str, ...] = ()
    expires_wall: float | None = None
    is_revoked: bool = False

    def is_good(self, wall: float) -> bool:
        """Tell whether it opens anything now."""
        return not self.is_revoked and (self.expires_wall is None or wall < self.expires_wall)


class Tokens:
    """The file of tokens.

    Args:
        wall: Tells UTC seconds since 1970.
    """

    def __init__(self, path: Path, wall: Callable[[], float]) -> None:
        self._path = path
        self._wall = wall
        self._tokens: tuple[Token, ...] = ()

    def open(self) -> None:
        """Read the file; one that is not there holds no token.

        Raises:
            TokenError: It cannot be read, or is none of ours.
        """
        try:
            found = json.loads(self._path.read_text())
            if found["version"] != FORMAT:
                raise ValueError(f"version {found['version']}")
            self._tokens = tuple(_token(item) for item in found["tokens"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TokenError(
                f"{self._path}: cannot be used ({error}); restore it, or move it away: its tokens"
                " then open nothing, and root makes new ones over the socket"
            ) from None

    def every(self) -> tuple[Token, ...]:
        """Return all tokens, those included that open nothing any more."""
        return self._tokens

    def create(
        self,
        name: str,
        rank: Rank,
        by: str,
        *,
        groups: Iterable[str] = (),
        lasts_s: float | None = None,
    ) -> tuple[Token, str]:
        """Make a token; return it and its text, which is shown this once.

        Raises:
            Invalid: The name is none.
            TokenError: It could not be saved, and opens nothing.
        """
        if not _NAME.fullmatch(name):
            raise Invalid(f"found the name {name[:64]!r}; use letters, digits and . _ @ -")
        if any(one.name == name and one.is_good(self._wall()) for one in self._tokens):
            raise Invalid(f"there is a token for {name}; revoke it first, or use another name")
        now, place, secret = self._wall(), secrets.token_hex(6), secrets.token_urlsafe(32)
        token = Token(
            id=place,
            name=name,
            role=rank.word,
            sha256=_digest(secret),
            created_wall=now,
            created_by=by,
            groups=tuple(sorted(groups)),
            expires_wall=None if lasts_s is None else now + lasts_s,
        )
        self._save((*self._tokens, token))
        return token, f"lbp_{place}_{secret}"

    def revoke(self, which: str) -> Token:
        """End a token by its id or its name, at once.

        Raises:
            NotFound: There is no such token that still opens something.
            TokenError: It could not be saved, and still opens.
        """
        good = [t for t in self._tokens if which in (t.id, t.name) and t.is_good(self._wall())]
        if not good:
            raise NotFound(f"no token {which[:64]} that opens anything; see `lb-probe token list`")
        ended = replace(good[0], is_revoked=True)
        self._save(tuple(ended if one is good[0] else one for one in self._tokens))
        return ended

    def who(self, text: str) -> Actor | None:
        """Return who comes with this text; None for nobody."""
        found = _TOKEN.fullmatch(text)
        if found is None:
            return None
        given, actor = _digest(found[2]), None
        for token in self._tokens:
            fits = hmac.compare_digest(given, token.sha256) and token.id == found[1]
            if fits and token.is_good(self._wall()):
                actor = Actor(token.name, rank_of(token.role), frozenset(token.groups))
        return actor

    def _save(self, tokens: tuple[Token, ...]) -> None:
        content = {"version": FORMAT, "tokens": [asdict(token) for token in tokens]}
        draft = self._path.with_name(f".{self._path.name}.new")
        try:
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(fd, "w") as file:
                json.dump(content, file, indent=1)
                file.flush()
                os.fsync(fd)
            draft.replace(self._path)
        except OSError as error:
            raise TokenError(
                f"{self._path}: cannot be written: {error.strerror or error}; give the service"
                " write access to its folder"
            ) from error
        self._tokens = tokens


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _token(item: dict[str, Any]) -> Token:
    token = Token(**{**item, "groups": tuple(item["groups"])})
    rank_of(token.role)  # a role that is none opens nothing, loudly
    return token
