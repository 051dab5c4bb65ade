"""One authoritative server: questions and signed updates over TCP, and its answers in words.

Over TCP alone: an update that is repeated by UDP may be carried out twice, and a long answer is
cut off there. Every exchange is a fresh connection with one deadline.

Source: RFC 1035, RFC 2136, RFC 8945; facts of BIND 9.18 and Knot 3.2.
"""

import asyncio
import socket
from dataclasses import dataclass
from typing import Any

import dns.asyncbackend
import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.tsig
import dns.update

from lb_probe.ports import PublishError, Unreachable

DNS_PORT = 53
FUDGE_S = 300  # how far clocks may be apart (RFC 8945, section 10)
_FAMILY = {False: socket.AF_INET, True: socket.AF_INET6}
_SILENCE = (OSError, EOFError, TimeoutError, dns.exception.Timeout)
_HINT = "compare `tsig` with the server's key: name, algorithm and secret"


@dataclass(frozen=True, slots=True)
class Key:
    """A TSIG key.

    Attributes:
        secret: In base64.
    """

    name: str
    algorithm: str
    secret: str

    def to_dns(self) -> dns.tsig.Key:
        """Return it as dnspython wants it."""
        return dns.tsig.Key(dns.name.from_text(self.name), self.secret, f"{self.algorithm}.")


class Server:
    """One authoritative server.

    Args:
        address: An IP address; a name would need the very service that is moved.
        timeout_s: For one exchange: connecting, sending and reading together.

    Attributes:
        where: `ADDRESS` or `ADDRESS:PORT`, for messages.
        line: How `nsupdate` is told of it.
    """

    def __init__(self, address: str, port: int, timeout_s: float) -> None:
        host = f"[{address}]" if ":" in address else address
        self.where = address if port == DNS_PORT else f"{host}:{port}"
        self._address, self._port, self._timeout_s = address, port, timeout_s
        self.line = f"server {address} {port}"

    # -------------------------------------------------------------- questions
    async def ask(self, query: dns.message.QueryMessage) -> dns.message.Message:
        """Put one question on a connection of its own; return the answer.

        Several on one connection would be fewer, and now and then 40 ms slower: the answers are
        small, and each waits for the acknowledgement of the one before.

        Raises:
            Unreachable: No connection, or no whole answer in time.
            PublishError: An answer that cannot be believed.
        """
        try:
            async with asyncio.timeout(self._timeout_s), await self._connect() as stream:
                await dns.asyncquery.send_tcp(stream, query.to_wire())
                answer = await self._receive(stream)
        except _SILENCE as error:
            raise Unreachable(f"{self.where}: {self._why(error)}") from error
        if not query.is_response(answer):
            raise PublishError(f"{self.where}: found an answer to another question")
        return answer

    # -------------------------------------------------------------- updates
    async def update(self, message: dns.update.UpdateMessage) -> None:
        """Send a signed update once; return when the server says that it is done.

        Raises:
            Unreachable: No connection: nothing was sent.
            PublishError: Refused, or not done since a prerequisite does not hold, or the outcome
                is unknown.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                stream = await self._connect()
        except _SILENCE as error:
            raise Unreachable(f"{self.where}: {self._why(error)}") from error
        try:
            async with stream, asyncio.timeout(self._timeout_s):
                await dns.asyncquery.send_tcp(stream, message.to_wire())
                answer = await self._receive(stream, message)
        except _SILENCE as error:
            text = "the update was sent; whether it was carried out is read next"
            raise PublishError(f"{self.where}: {self._why(error)}; {text}") from error
        if not message.is_response(answer):
            raise PublishError(f"{self.where}: found an answer to something else than the update")
        self._judge(answer, message)

    def _judge(self, answer: dns.message.Message, message: dns.update.UpdateMessage) -> None:
        rcode = answer.rcode()
        if rcode == dns.rcode.NOERROR:
            return
        zone = message.zone[0].name.to_text(omit_final_dot=True)
        if rcode in _MOVED:
            raise PublishError(
                f"{self.where}: the record is no longer what was read before"
                f" ({dns.rcode.to_text(rcode)}): somebody else wrote, or a wildcard answers for"
                " a record that does not exist; nothing was changed, it is read again"
            )
        raise PublishError(f"{self.where}: {refusal(rcode, zone)}")

    # -------------------------------------------------------------- one message
    async def _connect(self) -> Any:
        backend: Any = dns.asyncbackend.get_backend("asyncio")
        return await backend.make_socket(
            _FAMILY[":" in self._address],
            socket.SOCK_STREAM,
            destination=(self._address, self._port),
            timeout=self._timeout_s,
        )

    async def _receive(
        self,
        stream: Any,
        signed: dns.update.UpdateMessage | None = None,
    ) -> dns.message.Message:
        # With the MAC of what was sent, an answer without a signature is refused by dnspython.
        keyring, mac = (signed.keyring, signed.mac) if signed is not None else (None, b"")
        try:
            answer, _ = await dns.asyncquery.receive_tcp(stream, None, False, keyring, mac)
        except _SILENCE:
            raise
        except dns.exception.DNSException as error:
            raise PublishError(f"{self.where}: {_nonsense(error)}") from error
        except Exception as error:  # whatever a stranger's bytes do to the parser
            raise PublishError(f"{self.where}: {_nonsense(error)}") from error
        if answer.flags & dns.flags.TC:
            raise PublishError(f"{self.where}: found a truncated answer; wanted a whole one by TCP")
        return answer

    def _why(self, error: BaseException) -> str:
        if isinstance(error, TimeoutError | dns.exception.Timeout):
            return f"no answer within {self._timeout_s:g}s"
        if isinstance(error, EOFError):
            return "closed the connection before a whole answer"
        text = (error.strerror if isinstance(error, OSError) else None) or str(error)
        return f"{text or type(error).__name__} (TCP port {self._port})"


# A prerequisite's rcodes. RFC 2136, section 3.2.
_MOVED = (dns.rcode.NXRRSET, dns.rcode.YXRRSET, dns.rcode.NXDOMAIN, dns.rcode.YXDOMAIN)


def refusal(rcode: dns.rcode.Rcode, zone: str) -> str:
    """Say what a server that refuses means, and what helps.

    >>> refusal(dns.rcode.NOTAUTH, "example.com")[:54]
    'does not serve zone example.com as a master (NOTAUTH);'
    """
    name = dns.rcode.to_text(rcode)
    told = {
        dns.rcode.REFUSED: f"refused (REFUSED): wanted zone {zone} here, dynamic, and a policy that"
        " grants this key the record and its TXT",
        dns.rcode.NOTAUTH: f"does not serve zone {zone} as a master (NOTAUTH); compare `zone` and"
        " `servers`: the first of them takes updates",
        dns.rcode.NOTZONE: f"found a name outside zone {zone} (NOTZONE); compare `zone`",
        dns.rcode.SERVFAIL: "could not do it (SERVFAIL); its log says why: often it may not write"
        " the zone's file or journal",
        dns.rcode.NOTIMP: "takes no updates at all (NOTIMP)",
    }
    return told.get(rcode, f"found {name}; wanted NOERROR")


def _nonsense(error: Exception) -> str:
    """Say what came instead of an answer. RFC 8945, section 5."""
    apart = f"by more than {FUDGE_S}s; set both by NTP"
    words: dict[type[Exception], str] = {
        dns.tsig.PeerBadKey: f"the server does not know or not grant this key (BADKEY); {_HINT}",
        dns.tsig.PeerBadSignature: f"the server found a wrong signature (BADSIG); {_HINT}",
        dns.tsig.PeerBadTime: f"the server's clock and ours are apart (BADTIME) {apart}",
        dns.tsig.BadTime: f"the server's clock and ours are apart {apart}",
        dns.tsig.BadSignature: f"the answer's signature is wrong; {_HINT}",
        dns.message.UnknownTSIGKey: f"the answer is signed with another key; {_HINT}",
    }
    if type(error) in words:
        return words[type(error)]
    if "requires a TSIG" in str(error):
        return f"found an answer without a signature: is the zone served there? {_HINT}"
    return f"found no DNS message that can be read ({type(error).__name__})"
