"""The partner of a node, as every feature of its agent asks it.

PeerError              it did not answer, or what it said cannot be believed
"""

from typing import Protocol

from lb_probe.core.peer_report import PeerReport
from lb_probe.ports import LbProbeError


class PeerError(LbProbeError):
    """The peer did not answer, or not as itself; nothing is known of it then."""


class Peer(Protocol):
    """The agent of the partner node.

    Attributes:
        name: The partner's name in probes.yaml.
    """

    name: str

    async def report(self) -> PeerReport:
        """Ask now, within the peer's own deadline.

        Raises:
            PeerError: No answer, another's answer, or nonsense.
        """
