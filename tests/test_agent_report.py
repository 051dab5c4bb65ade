"""How the prober asks agents, and what it does not believe."""

import asyncio
import json
from contextlib import asynccontextmanager

import aiohttp
import pytest
from loopback import listening, port_of

from lb_probe.agent import report_site
from lb_probe.app import agents_heard
from lb_probe.clock import SystemClock
from lb_probe.core.holds import Holds
from lb_probe.core.model import Mode
from lb_probe.core.peer_report import SIGNATURE, PeerReport, signature
from lb_probe.prober.agent_report import Agent, ask

CLOCK = SystemClock()
REPORT = PeerReport(node="b", mode=Mode.STANDBY, version="12.5")


@asynccontextmanager
async def reporting(report=REPORT, secret=b""):
    """A real agent's listener; yields its port."""
    from contextlib import AsyncExitStack

    async with AsyncExitStack() as stack:
        app = report_site.application(report.document, lambda: b"", secret)
        yield await report_site.serve(app, "127.0.0.1", 0, stack)


async def heard(port, secret=b"", timeout_s=5.0):
    async with aiohttp.ClientSession() as session:
        agent = Agent("g", "b", "127.0.0.1", port, secret, timeout_s)
        return await ask(agent, session, CLOCK)


@asynccontextmanager
async def answering(answer):
    async def behave(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            await reader.read()
        writer.write(answer)
        await writer.drain()

    async with listening(behave) as server:
        yield port_of(server)


def http(body, code="200 OK", extra=""):
    return f"HTTP/1.1 {code}\r\nContent-Length: {len(body)}\r\n{extra}\r\n{body}".encode()


async def test_a_report_is_heard_with_and_without_a_secret():
    async with reporting() as port:
        assert (await heard(port)).report == REPORT
    async with reporting(secret=b"hush") as port:
        found = await heard(port, b"hush")
        assert (found.report, found.fault) == (REPORT, "")
        assert (await heard(port)).report == REPORT  # who has no secret takes it as it is


@pytest.mark.parametrize("secret", [b"", b"other"])
async def test_what_is_not_signed_with_the_secret_is_not_believed(secret):
    async with reporting(secret=secret) as port:
        found = await heard(port, b"hush")
    assert found.report is None
    assert found.fault.endswith("found no signature of the secret; check report.secret_file")


async def test_an_old_answer_that_is_told_again_is_not_believed():
    body = json.dumps(REPORT.document())
    old = signature(b"hush", "the nonce of yesterday", body.encode())
    async with answering(http(body, extra=f"{SIGNATURE}: {old}\r\n")) as port:
        assert (await heard(port, b"hush")).report is None


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (None, "no report within 0.3s"),
        (http("{}", "302 Found", "Location: /x\r\n"), "found status 302; wanted 200"),
        (http("{}", "404 Not Found"), "found status 404; wanted 200"),
        (http("{}"), "found version_of_report None"),
        (http("not json"), "JSONDecodeError"),
        (http("[" * 60_000), "no report: "),
        (http(json.dumps(REPORT.document() | {"node": "a"})), "found the report of 'a'"),
        (http(json.dumps(REPORT.document() | {"mode": "\x1b[2J"})), r"found mode '\x1b[2J'"),
        (http("x" * 3_000_000), "no report: "),
        (b"\x16\x03\x01\x00nonsense\r\n\r\n", "no report: "),
    ],
)
async def test_a_strange_answer_is_no_report_and_says_why(answer, fault):
    async with answering(answer) as port:
        found = await heard(port, timeout_s=0.3 if answer is None else 10.0)
    assert found.report is None
    assert fault in found.fault
    assert found.fault.isprintable()
    assert len(found.fault) <= 200


async def test_what_an_agent_said_stays_and_grows_old_when_it_falls_silent(monkeypatch):
    monkeypatch.setattr(agents_heard, "INTERVAL_S", 0.02)
    told = []
    news = asyncio.Event()

    def hear(group, node, heard):
        told.append(heard)
        news.set()

    async def until(is_so):
        async with asyncio.timeout(20):
            while not is_so():
                news.clear()
                await news.wait()

    async with reporting() as port:
        agents = [Agent("g", "b", "127.0.0.1", port, timeout_s=1.0)]
        task = asyncio.ensure_future(
            agents_heard.listen(agents, hear, lambda group, node: Holds.NO, CLOCK)
        )
        await until(lambda: told and told[-1].report == REPORT)
    await until(lambda: bool(told[-1].fault))
    assert told[-1].report == REPORT
    at = told[-1].at
    count = len(told)
    await until(lambda: len(told) > count + 3)
    assert told[-1].at == at  # so it grows old, and vouches for nothing soon
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
