"""A real HAProxy that still reaches the Primary brakes a prober that does not (X7)."""

import asyncio
import contextlib
import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from haproxy_desk import BINARIES
from loopback import Behaviour, listening, port_of

CONFIG = """
global
    stats socket {{folder}}/admin.sock mode 600 level admin
defaults
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s
frontend service
    bind {{folder}}/service.sock
    use_backend pool_%[str(epmm),map({{folder}}/active.map,none)]
backend pool_a
    option tcp-check
    server a 127.0.0.1:{a} check inter 100ms fall 3 rise 2
backend pool_b
    option tcp-check
    server b 127.0.0.1:{b} check inter 100ms fall 3 rise 2
"""
PROBES = """
version: 1
store: sqlite:{folder}/state.db
api: {{socket: {folder}/api.sock}}
groups:
  - name: epmm
    act: true
    confirm: 1s
    nodes:
      - {{name: epmm-a, role: primary, url: "http://127.0.0.1:{deaf}"}}
      - {{name: epmm-b, role: secondary, url: "http://127.0.0.1:{b}"}}
    adapters:
      - {{type: haproxy, name: edge, socket: {folder}/admin.sock, check_interval: 100ms,
         map_file: {folder}/active.map, key: epmm, nodes: {{epmm-a: a, epmm-b: b}}}}
"""


def node(name: str) -> Behaviour:
    """A Standby, as its pages tell; any other path answers its name."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split()[1]
        body = name.encode()
        if path.endswith(b".html"):
            body = b"MOBILEIRON-STATUS: OK (Mode: Standby)" if b"/hastatus" in path else b"ERROR"
        status = b"503 Service Unavailable" if path.startswith(b"/status") else b"200 OK"
        writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n" % (status, len(body)))
        writer.write(b"Connection: close\r\n\r\n" + body)
        await writer.drain()

    return answer


async def asked(folder: Path) -> dict[str, Any]:
    """Return the group as the API shows it; empty before it answers."""
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_unix_connection(str(folder / "api.sock"))
        try:
            writer.write(
                b"GET /api/v1/groups/epmm HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            )
            answer = await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()
        group: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
        return group
    return {}


async def until_shown(folder: Path, **wanted: object) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while True:
            group = await asked(folder)
            if group and all(group.get(key) == value for key, value in wanted.items()):
                return group
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("haproxy_binary", BINARIES[:1], indirect=True)  # what it tells is the same
async def test_haproxy_that_reaches_the_primary_stops_a_failover_until_it_does_not(make_haproxy):
    """The prober's own way to the Primary is cut: HAProxy, and the users behind it, know better."""
    async with contextlib.AsyncExitStack() as stack:
        alive = contextlib.AsyncExitStack()
        stack.push_async_callback(alive.aclose)
        a = await alive.enter_async_context(listening(node("a")))
        b = await stack.enter_async_context(listening(node("b")))
        deaf = stack.enter_context(socket.socket())
        deaf.bind(("127.0.0.1", 0))  # and never listens: refused
        proxy = make_haproxy(CONFIG.format(a=port_of(a), b=port_of(b)))
        proxy.map.write_text("epmm a\n")
        await proxy.start()
        text = PROBES.format(folder=proxy.folder, deaf=deaf.getsockname()[1], b=port_of(b))
        (proxy.folder / "probes.yaml").write_text(text)
        line = ["-m", "lb_probe", "-c", str(proxy.folder / "probes.yaml"), "prober", "--init"]
        with (proxy.folder / "prober.log").open("wb") as log:
            prober = await asyncio.create_subprocess_exec(
                sys.executable, *line, stdout=log, stderr=log
            )
        stack.push_async_callback(prober.wait)
        stack.callback(prober.terminate)

        group = await until_shown(proxy.folder, condition="failover-blocked")
        assert group["blocked"] == ["lb-disagrees"]
        assert (group["assigned"], await proxy.ask_service()) == ("epmm-a", "a")

        await alive.aclose()  # now it is really down, and HAProxy sees it too
        group = await until_shown(proxy.folder, assigned="epmm-b", latched=True)
        async with asyncio.timeout(30):
            while await proxy.ask_service() != "b":  # noqa: ASYNC110 - saved first, then published
                await asyncio.sleep(0.02)
