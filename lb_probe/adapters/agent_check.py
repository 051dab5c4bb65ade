r"""HAProxy asks us: a TCP server for its `agent-check`.

    server a 192.0.2.10:443 check agent-check agent-port 9700 agent-inter 1s agent-send "a\n"

HAProxy sends one word and reads one line. No admin socket is exposed, and what it asks for it has
again by itself after each reload, within `agent-inter`. Each answer carries the whole state: `up`
alone does not clear a `drain` or `maint`, only `ready` does.

It is no fence and no first choice: servers are asked at different instants, so both or none may be
in for a moment, and while we do not answer HAProxy keeps what it was told last. At its start it
counts a server as up until the first answer: mark the servers `disabled`, or gate them by a map.

Source: HAProxy configuration manual, "agent-check", "agent-send".
"""

import asyncio
import re
from collections.abc import Mapping
from typing import cast

from lb_probe.core.model import Seen
from lb_probe.listening import end_listening
from lb_probe.ports import PublishError

_WORD = re.compile(r"[A-Za-z0-9_.:/-]{1,120}")
_MAX_LINE_BYTES = 256
_DEADLINE_S = 2.0
_MOST = 256  # connections at once; the oldest that still says nothing goes first
_BACKLOG = 512


class AgentCheck:
    """Answers HAProxy's question whether a server may have traffic.

    Args:
        listen: Host and port; port 0 takes a free one.
        nodes: For each node the word that HAProxy's `agent-send` carries for it.
        deadline_s: Seconds a connection may take for its line.

    Attributes:
        name: The adapter's name in probes.yaml.
        type: Its kind in probes.yaml.

    Raises:
        ValueError: A word that a line cannot carry, one word for two nodes, or no node.
    """

    type = "agent-check"

    def __init__(
        self,
        name: str,
        listen: tuple[str, int],
        nodes: Mapping[str, str],
        *,
        deadline_s: float = _DEADLINE_S,
    ) -> None:
        for node, word in nodes.items():
            if not _WORD.fullmatch(word):
                raise ValueError(
                    f"word of {node} is {word!r}; use letters, digits, `_`, `.`, `:`, `/` and `-`"
                )
        if not nodes or len(set(nodes.values())) < len(nodes):
            raise ValueError(f"nodes are {dict(nodes)}; give each its own word, at least one")
        self.name = name
        self._listen = listen
        self._words = dict(nodes)
        self._by_word = {word: node for node, word in nodes.items()}
        self._deadline_s = deadline_s
        self._server: asyncio.Server | None = None
        self._assigned: str | None = None
        self._is_published = False
        self._open: dict[_Poll, None] = {}
        self._polls: dict[str, tuple[str, float]] = {}  # by node: who asked last, and when
        self._stranger = ""

    # -------------------------------------------------------------- life
    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: The address is taken or not ours.
        """
        loop = asyncio.get_running_loop()
        host, port = self._listen
        self._server = await loop.create_server(
            lambda: _Poll(self), host, port, backlog=_BACKLOG, reuse_address=True
        )

    async def close(self) -> None:
        """Listen no more and end what is open. HAProxy keeps what it was told last."""
        server, self._server = self._server, None
        if server is None:
            return
        await end_listening(server)
        for poll in tuple(self._open):
            poll.end()
        await server.wait_closed()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port it listens on; the port that was taken where it was to be 0."""
        if self._server is None:
            return self._listen
        host, port, *_ = self._server.sockets[0].getsockname()
        return host, port

    # -------------------------------------------------------------- Publisher
    async def publish(self, node: str) -> None:
        """Answer `up` for this node alone from now on.

        Raises:
            PublishError: No word is known for it, or nobody listens.
        """
        self._check(node)
        self._put(node)

    async def publish_nobody(self) -> None:
        """Answer `down` for every node from now on.

        Raises:
            PublishError: Nobody listens.
        """
        self._put(None)

    async def read_back(self) -> Seen:
        """Say what is answered now, and who asked last.

        Whether HAProxy has heard it only its next question tells: see `Seen.detail`.

        Raises:
            PublishError: Nobody listens.
        """
        self._check_listening()
        said = [self._told(node) for node in self._words]
        if not self._is_published:
            said.insert(0, "nobody was assigned since its start")
        if self._stranger:
            said.append(self._stranger)
        node = self._assigned
        return Seen(
            node=node, chosen=() if node is None else (node,), detail="; ".join(filter(None, said))
        )

    def commands(self, node: str) -> list[str]:
        """Return what is answered after `publish(node)`.

        Raises:
            PublishError: No word is known for it.
        """
        self._check(node)
        return [
            f"to {word!r} answer `{self._line(word, node).decode().strip()}`"
            for word in self._words.values()
        ]

    def _check(self, node: str) -> None:
        if node not in self._words:
            known = ", ".join(self._words)
            raise PublishError(f"{self.name}: no word is known for {node}; wanted one of {known}")

    def _check_listening(self) -> None:
        if self._server is None:
            host, port = self._listen
            raise PublishError(
                f"{self.name}: nobody listens on {host}:{port} for HAProxy's agent checks; is the"
                " address taken?"
            )

    def _put(self, node: str | None) -> None:
        self._check_listening()
        self._assigned, self._is_published = node, True
        self._polls.clear()  # who asked before heard something else

    # -------------------------------------------------------------- questions
    def answer(self, raw: bytes, peer: str) -> bytes:
        """Return the line for one question.

        Args:
            raw: What was sent, up to its newline.
            peer: Who sent it, for people.
        """
        word = raw.strip(b"\r\n \t").decode("ascii", "replace")
        if word in self._by_word:
            now = asyncio.get_running_loop().time()
            self._polls[self._by_word[word]] = (peer, now)
        else:
            self._stranger = f"{peer} asked for {_safe(word)}: compare `agent-send` with `nodes`"
        return self._line(word, self._assigned)

    def _line(self, word: str, assigned: str | None) -> bytes:
        if word not in self._by_word:
            return f"down #unknown {_safe(word)}\n".encode()
        if assigned is None:
            return b"down #nobody is assigned\n"
        if self._by_word[word] == assigned:
            return b"up ready 100%\n"
        return b"down #not assigned\n"

    def _told(self, node: str) -> str:
        if node not in self._polls:
            since = "since the last publication" if self._is_published else "yet"
            return f"nobody asked for {node} {since}"
        peer, at = self._polls[node]
        ago = asyncio.get_running_loop().time() - at
        return f"{peer} asked for {node} {ago:.1f}s ago"

    def admit(self, poll: "_Poll") -> None:
        """Take a connection; beyond the limit the oldest one is ended for it."""
        self._open[poll] = None
        if len(self._open) > _MOST:
            next(iter(self._open)).end()

    def dismiss(self, poll: "_Poll") -> None:
        """Forget a connection that ended."""
        self._open.pop(poll, None)

    def note_silence(self, peer: str) -> None:
        """Note that somebody connected and sent no line."""
        self._stranger = f"{peer} sent no word within {self._deadline_s:g}s: set `agent-send`"

    @property
    def deadline_s(self) -> float:
        """Seconds a connection may take."""
        return self._deadline_s


class _Poll(asyncio.Protocol):
    """One connection: a line in, a line out, closed."""

    def __init__(self, owner: AgentCheck) -> None:
        self._owner = owner
        self._got = bytearray()
        self._peer = "somebody"
        self._is_answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        name = transport.get_extra_info("peername")
        if isinstance(name, tuple):
            self._peer = str(name[0])
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._owner.deadline_s, self._late)
        self._owner.admit(self)

    def data_received(self, data: bytes) -> None:
        if self._is_answered:
            return
        self._got += data[: _MAX_LINE_BYTES + 1]
        line, newline, _ = self._got.partition(b"\n")
        if newline:
            self._is_answered = True
            self._transport.write(self._owner.answer(bytes(line), self._peer))
            self._transport.close()
        elif len(self._got) > _MAX_LINE_BYTES:
            self.end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._owner.dismiss(self)

    def end(self) -> None:
        """Close at once, whatever is under way."""
        self._owner.dismiss(self)
        self._transport.abort()

    def _late(self) -> None:
        if not self._is_answered:
            self._owner.note_silence(self._peer)
        self.end()


def _safe(word: str) -> str:
    """Return a stranger's word as it may be put into an answer, a log and a page."""
    return re.sub(r"[^A-Za-z0-9_.:/-]", "?", word)[:40] or "nothing"
