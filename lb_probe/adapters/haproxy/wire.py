"""One line out, one whole answer back: the wire to a HAProxy's command socket.

Rules of this file, each learned from a real HAProxy:

* One connection carries one line, written at once, and is read to its end. A pipeline that
  arrives in pieces loses commands, a second line on a connection is dropped from 3.0 on, and an
  old connection stays with the process that leaves after a reload.
* A line is never sent twice. Once a byte of it is out the outcome is unknown until somebody reads
  back; only connecting is tried again. A HAProxy that hung carries out what waited in its queue
  when it wakes, long after we gave up.
* A TCP socket of HAProxy's knows no TLS (`ssl` on a `stats socket` line is ignored without a
  word): a `listen` in mode tcp with `bind ... ssl verify required` stands in front of it.

Source: HAProxy management guide, "Unix Socket commands".
"""

import asyncio
import socket
import ssl
from pathlib import Path

from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_before_delay,
    wait_random_exponential,
)

from lb_probe.adapters.haproxy.words import reason
from lb_probe.ports import PublishError, Unreachable

Address = Path | tuple[str, int]

# HAProxy 2.6 hangs, and loses the connection slot for ever, on a line near its 16 kB buffer.
MAX_LINE_BYTES = 15_000
# A server's row is 0.1 kB, in `show stat` 0.5 kB, as a session's: room for fifteen thousand.
MAX_REPLY_BYTES = 1 << 23
_CHUNK_BYTES = 1 << 18
# A master of 2.8 keeps the connection open after this answer.
_NO_SUCH_WORKER = b"Can't find the target PID"

# Refused: the process is being replaced. Would block: the queue of the UNIX socket is full for
# the moment. Both pass within milliseconds, and nothing has been sent. A missing socket or one
# that we may not open does not mend itself: that is told at once.
_PASSING = (ConnectionRefusedError, BlockingIOError)
_CONNECT_RETRY_S = 0.5


class UnfinishedError(Exception):
    """A line was sent, or partly sent, and no whole answer came.

    Attributes:
        received: Bytes of an answer that did come.
    """

    def __init__(self, message: str, received: int) -> None:
        super().__init__(message)
        self.received = received


class RuntimeApi:
    """The command socket of one HAProxy, or of its master.

    Args:
        timeout_s: For connecting, sending and reading together.
        tls: For a `bind ... ssl` in front of the command socket.
        server_name: Name in its certificate; the address's host by default.
        half_close: Say that no more lines come. A master waits for more otherwise.

    Attributes:
        where: The socket's path or HOST:PORT, for messages.

    Raises:
        ValueError: An address or a time that cannot be.
    """

    def __init__(
        self,
        address: Address,
        *,
        timeout_s: float,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        half_close: bool = False,
    ) -> None:
        self.where = f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)
        if isinstance(address, tuple) and not 0 < address[1] < 65536:
            raise ValueError(f"port is {address[1]}; use 1 to 65535")
        if not timeout_s > 0:
            raise ValueError(f"timeout_s is {timeout_s}; use more than 0 (2 is usual)")
        if "\0" in self.where:
            raise ValueError(f"socket is {self.where!r}; use a path without NUL characters")
        self._address = address
        self._timeout_s = timeout_s
        self._tls = tls
        self._server_name = server_name or (address[0] if isinstance(address, tuple) else "")
        self._half_close = half_close

    async def ask(self, line: str, timeout_s: float | None = None) -> bytes:
        """Send one line and return all that HAProxy says until it closes.

        Args:
            timeout_s: Seconds for all of it, where it is less than usual.

        Raises:
            Unreachable: No connection; nothing was sent.
            UnfinishedError: It may have been carried out, but no whole answer came. An answer of
                more than `MAX_REPLY_BYTES` is cut off.
            PublishError: The line may not be sent at all.
        """
        data = line.encode() + b"\n"
        if len(data) > MAX_LINE_BYTES or data.count(b"\n") > 1:
            raise PublishError(
                f"a command line of {len(data)} bytes; wanted one line of {MAX_LINE_BYTES} at most"
            )
        is_connected = False
        got = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s if timeout_s is None else timeout_s):
                sock = await self._connect()
                if self._tls is not None:
                    stream = await _start_tls(sock, self._tls, self._server_name)
                    is_connected = True
                    await _exchange_tls(*stream, data, got)
                else:
                    with sock:
                        is_connected = True
                        await self._exchange(sock, data, got)
        except (OSError, UnicodeError) as exc:
            if is_connected:
                raise UnfinishedError(self._unfinished(exc, len(got)), len(got)) from exc
            raise Unreachable(self._unreachable(exc)) from exc
        return bytes(got)

    async def _connect(self) -> socket.socket:
        if isinstance(self._address, tuple):
            return await self._patiently()(_connect_tcp, *self._address)
        try:
            return _connect_unix(self._address)
        except _PASSING:
            return await self._patiently()(_connect_unix_later, self._address)

    def _patiently(self) -> AsyncRetrying:
        return AsyncRetrying(
            retry=retry_if_exception_type(_PASSING),
            wait=wait_random_exponential(multiplier=0.02, max=0.2),
            stop=stop_before_delay(min(_CONNECT_RETRY_S, self._timeout_s / 2)),
            reraise=True,
        )

    async def _exchange(self, sock: socket.socket, data: bytes, got: bytearray) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, data)
        if self._half_close:
            sock.shutdown(socket.SHUT_WR)
        chunk = await loop.sock_recv(sock, _CHUNK_BYTES)
        while chunk:
            _take(chunk, got)
            if self._half_close and got.startswith(_NO_SUCH_WORKER):
                return
            try:
                chunk = sock.recv(_CHUNK_BYTES)  # most often its end, which came with it
            except BlockingIOError:
                chunk = await loop.sock_recv(sock, _CHUNK_BYTES)
        _check_not_empty(got)

    def _unfinished(self, exc: BaseException, received: int) -> str:
        if isinstance(exc, TimeoutError):
            hint = "" if received else "; does it hang, or is `stats maxconn` used up?"
            return f"no whole answer within {self._timeout_s:g}s ({received} bytes came{hint})"
        return f"the connection broke after {received} bytes of the answer ({reason(exc)})"

    def _unreachable(self, exc: BaseException) -> str:
        is_tcp = isinstance(self._address, tuple)
        line = f"ipv4@{self.where}" if is_tcp else f"{self.where} mode 660"
        match exc:
            case ssl.SSLError():
                found = f"TLS failed ({_tls_reason(exc)})"
                wanted = (
                    "compare `ca_file` and `server_name` with the certificate of `bind ... ssl`"
                )
            case FileNotFoundError():
                found = "there is no such socket"
                wanted = f"is HAProxy running, with `stats socket {line} level admin`?"
            case PermissionError() if not is_tcp:
                found = "this user may not open the socket"
                wanted = "join the group of the socket (`stats socket ... group NAME mode 660`)"
            case ConnectionRefusedError():
                found = "nobody listens there"
                wanted = f"is HAProxy running, with `stats socket {line} level admin`?"
            case BlockingIOError() | TimeoutError():
                found = f"no connection within {self._timeout_s:g}s"
                wanted = "does it hang, or is `stats maxconn` used up?"
            case _:
                found = f"no connection ({reason(exc)})"
                wanted = "check the address in probes.yaml"
        return f"{found}; {wanted}"


def _take(chunk: bytes, got: bytearray) -> None:
    got += chunk
    if len(got) > MAX_REPLY_BYTES:
        raise UnfinishedError(
            f"more than {MAX_REPLY_BYTES} bytes came; where that is a map of hundreds of thousands"
            " of keys, give ours a file of their own",
            len(got),
        )


def _check_not_empty(got: bytearray) -> None:
    if not got:
        raise UnfinishedError("the connection was closed without an answer", 0)


def _tls_reason(exc: ssl.SSLError) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return exc.verify_message
    return exc.reason or str(exc)


# ------------------------------------------------------------------ TLS
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _start_tls(sock: socket.socket, tls: ssl.SSLContext, name: str) -> Stream:
    try:
        return await asyncio.open_connection(sock=sock, ssl=tls, server_hostname=name)
    except BaseException:
        sock.close()
        raise


async def _exchange_tls(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes, got: bytearray
) -> None:
    try:
        writer.write(data)
        await writer.drain()
        while chunk := await reader.read(_CHUNK_BYTES):
            _take(chunk, got)
        _check_not_empty(got)
    finally:
        # Not close(): it waits for the other end's goodbye, which a hung one never says.
        writer.transport.abort()


# ------------------------------------------------------------------ connecting
def _connect_unix(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        # Not loop.sock_connect: a full queue is EAGAIN here, which asyncio takes for "under way"
        # and then hands over a socket that is not connected. This call never waits.
        sock.connect(str(path))
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect_unix_later(path: Path) -> socket.socket:
    return _connect_unix(path)


async def _connect_tcp(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    try:
        # An address needs no resolver: asyncio would ask a thread even for 127.0.0.1.
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failure: OSError = ConnectionRefusedError(f"{host} has no address")
    for family, kind, protocol, _, address in found:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, address)
        except OSError as exc:
            sock.close()
            failure = exc
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure
