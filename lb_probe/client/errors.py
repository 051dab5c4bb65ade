"""What can go wrong when a verb asks, and the exit code of each.

ClientError (exit 1)   the API failed at something, and says at what
+-- BadAnswer (1)      what answered is not this API, or not whole
+-- Lost (1)           an act was sent and no answer came: it may or may not have been made
+-- Unusable (2)       a bad address, file or request; an unknown group; nothing was changed
+-- Unreachable (3)    nobody answered
+-- Denied (4)         no or a wrong token, or a role that may not do this
+-- Conflict (5)       the group changed between the plan and the act
+-- Refused (6)        a gate is closed, or nobody confirmed
"""

from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]


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


def not_ours(where: object, found: str) -> BadAnswer:
    """Return the error for an answer that is not lb-probe's; `where` is what was asked."""
    return BadAnswer(
        f"{where} answered, but not as lb-probe does: found {found};"
        " check the address (LB_PROBE_URL, -c FILE) and that both sides have the same version"
    )


def reason_of(error: Exception) -> str:
    """Return why a connection failed, in one line."""
    if isinstance(error, TimeoutError):
        return "nothing came within the time limit"
    text = getattr(error, "strerror", None) or one_line(error)
    if type(error).__name__ == "SSLCertVerificationError":
        verify = getattr(error, "verify_message", "")
        return f"its certificate is not trusted: {verify}; LB_PROBE_CA_FILE names a CA file"
    return str(text)


def one_line(error: Exception) -> str:
    """Return what an exception says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
