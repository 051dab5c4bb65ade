"""An agent's control socket: one line of JSON asks, one or more answer."""

import json
import socket
from collections.abc import Generator
from pathlib import Path

from lb_probe.client.api import LARGEST_ANSWER, READ_TIMEOUT_S
from lb_probe.client.errors import (
    ClientError,
    Conflict,
    Denied,
    Json,
    Refused,
    Unreachable,
    Unusable,
    not_ours,
    reason_of,
)

# An agent runs the operator's programs before it answers; their own limit is theirs.
AGENT_ACT_TIMEOUT_S = 3600.0


def ask_agent(control: Path, request: Json, timeout_s: float = READ_TIMEOUT_S) -> Json:
    """Send one JSON line to an agent's control socket and return its one JSON line.

    Raises:
        Unreachable: Nobody listens there.
        Denied: The socket is its owner's only.
        ClientError: The agent says what is wrong, or answers nonsense.
    """
    for answer in follow_agent(control, request, timeout_s):
        return answer
    raise not_ours(control, "an end without an answer")


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
            f"no answer from the agent at {control}: {reason_of(error)}\n"
            "check: is it running on this machine (systemctl status 'lb-probe-agent*')?"
            " is -c FILE the file it was started with?"
        ) from error


def _agent_answer(control: Path, raw: bytes) -> Json:
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError):
        answer = None
    if not raw.endswith(b"\n") or not isinstance(answer, dict):
        raise not_ours(control, f"{len(raw)} bytes that are not one line of JSON")
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
