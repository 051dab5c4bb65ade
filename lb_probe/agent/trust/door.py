"""The listener through which pinned peers ask; a stranger gets an alert and nothing else.

Protocol, version 1, inside the connection of `wire`: the asker sends one JSON object on a line,
`{"ask": NAME, ...}`, and gets one on a line, `{"answer": {...}, "heard_at": S, "answered_at": S}`
or `{"error": "..."}`; up to 16 questions on a connection. The stamps are UTC seconds since 1970 by
the clock of who answers.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from lb_probe.agent.pages import ListenError
from lb_probe.agent.trust.wire import Context, Wire, WireError
from lb_probe.ports import Clock, LbProbeError

Answer = Callable[[str, Mapping[str, Any]], Awaitable[Mapping[str, object]]]
_MOST = 64  # connections at a time; who comes then takes the place of the oldest handshake
_QUESTIONS = 16
_IDLE_S = 30.0
_TELL_S = 10.0  # strangers may be many; the log hears of one in this time
_BACKLOG = 128
_BREATH_S = 0.2


class Door:
    """Listens, and lets each question of a pinned peer be answered."""

    def __init__(
        self,
        listen: tuple[str, int],
        context: Callable[[], Context],
        clock: Clock,
        *,
        came: Callable[[str], None],
        refused: Callable[[str, str], None],
    ) -> None:
        """Open nothing yet.

        Args:
            context: Returns what the next connection is made with.
            came: Told of each peer that was let in.
            refused: Told of strangers, address and reason; not of each, where there are many.
        """
        self._listen = listen
        self._context = context
        self._clock = clock
        self._came = came
        self._refused = refused
        self._told_at = -_TELL_S
        self._answers: dict[str, Answer] = {}
        self._shaking: dict[asyncio.Task[None], None] = {}
        self._inside: set[asyncio.Task[None]] = set()
        self.strangers = 0

    def answer(self, name: str, answer: Answer) -> None:
        """Let this answer questions of one name; it is given who asks and the question."""
        if self._answers.setdefault(name, answer) is not answer:
            raise ValueError(f"two answers for {name}")

    async def run(self) -> None:
        """Listen until cancelled.

        Raises:
            ListenError: The address is in use, not ours, or not allowed.
        """
        listener = _bind(*self._listen)
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    await self._make_room()
                    sock = await self._accept(listener)
                    task = tasks.create_task(self._serve(sock))
                    self._shaking[task] = None
                    task.add_done_callback(partial(self._forget, sock))
        finally:
            listener.close()

    async def _accept(self, listener: socket.socket) -> socket.socket:
        # Not loop.sock_accept: a connection it has taken is lost where we are ended in that turn.
        while True:
            try:
                with suppress(BlockingIOError):
                    sock, _ = listener.accept()
                    sock.setblocking(False)
                    return sock
                await _until_readable(listener)
            except OSError:  # no more descriptors, or gone already: the listener itself lives
                await self._clock.sleep(_BREATH_S)

    async def _make_room(self) -> None:
        while len(self._shaking) + len(self._inside) >= _MOST:
            if self._shaking:
                oldest = next(iter(self._shaking))
                oldest.cancel()
                await asyncio.wait([oldest])
            else:
                await asyncio.wait(self._inside, return_when=asyncio.FIRST_COMPLETED)

    def _forget(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        sock.close()  # one that was ended before it began has not done so
        self._shaking.pop(task, None)
        self._inside.discard(task)

    # -------------------------------------------------------------- one connection
    async def _serve(self, sock: socket.socket) -> None:
        address = _address(sock)
        async with Wire(sock, self._context(), is_server=True) as wire:
            try:
                await wire.shake_hands()
            except WireError as error:
                self._stranger(address, str(error))
                return
            task = asyncio.current_task()
            assert task is not None
            del self._shaking[task]
            self._inside.add(task)
            self._came(wire.peer)
            try:
                async with asyncio.timeout(_IDLE_S) as idle:
                    await self._answer_all(wire, idle)
            except (WireError, TimeoutError):
                pass  # it went away or fell silent: nobody is left to tell
            await wire.end()

    async def _answer_all(self, wire: Wire, idle: asyncio.Timeout) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(_QUESTIONS):
            question = await wire.hear()
            heard_at = self._clock.wall()
            if question is None:
                return
            idle.reschedule(None)
            # A pin may be revoked while its connection is open.
            if self._context().who(wire.fingerprint) != wire.peer:
                return
            said = await self._answer(wire.peer, question)
            stamps = {"heard_at": heard_at, "answered_at": self._clock.wall()}
            idle.reschedule(loop.time() + _IDLE_S)
            await wire.say(said | stamps)

    async def _answer(self, peer: str, question: dict[str, Any]) -> dict[str, object]:
        name = question.get("ask")
        answer = self._answers.get(name) if isinstance(name, str) else None
        if answer is None:
            known = ", ".join(sorted(self._answers))
            return {"error": f"found question {str(name)[:60]!r}; use one of {known}"}
        try:
            return {"answer": await answer(peer, question)}
        except LbProbeError as error:
            return {"error": str(error)}

    def _stranger(self, address: str, reason: str) -> None:
        self.strangers += 1
        now = self._clock.monotonic()
        if now - self._told_at >= _TELL_S:
            self._told_at = now
            self._refused(address, reason)


def _bind(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        raise ListenError(
            f"{host}:{port}: found {error}; wanted to listen for peers there;"
            " free the address or change `trust.listen`"
        ) from error
    listener.setblocking(False)
    return listener


async def _until_readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(sock, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(sock)


def _address(sock: socket.socket) -> str:
    try:
        host, port, *_ = sock.getpeername()
    except OSError:
        return "unknown"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
