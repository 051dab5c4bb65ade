"""Requests as values, the log of them, and how a unit can be."""

import enum
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from emulator.errors import refused, rest_refused

TAG = re.compile(r"<[^>]*>")
TAGS = "HTML Tag-like Content in the Request URL/Body"


class Condition(enum.Enum):
    """How a unit is."""

    RUNNING = "running"
    UNLICENSED = "unlicensed"
    MCPD_STARTING = "mcpd-starting"  # objects are not found, `ready` says no
    MCPD_LOST = "mcpd-lost"  # 500
    RESTARTING = "restarting"  # 503, a page
    RESTJAVAD_DOWN = "restjavad-down"  # 401 from the web server for everybody
    RESTJAVAD_STARTING = "restjavad-starting"  # 404, not registered
    HUNG = "hung"  # connections are accepted, nothing is answered
    OFF = "off"  # connections are reset


@dataclass(frozen=True)
class Request:
    """One request, as it came in."""

    method: str
    raw_path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body, read.

        Raises:
            Refusal: It is no JSON, or has something like a tag in it.
        """
        if not self.body:
            return {}
        try:
            text = self.body.decode()
            value = json.loads(text)
        except ValueError as error:
            raise rest_refused(400, f"Found invalid JSON body in the request. {error}") from None
        if TAG.search(text):
            raise refused(400, TAGS)
        return value


@dataclass(frozen=True)
class Seen:
    """A line of the log of requests."""

    method: str
    raw_path: str
    status: int
    body: Any = field(default=None, compare=False)
    fault: str = ""
