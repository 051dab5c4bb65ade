"""A feature of an agent: its commands, section, metrics and crash; and the record of acts."""

import asyncio
import json
from contextlib import asynccontextmanager

import aiohttp
import pytest

from lb_probe.agent import daemon
from lb_probe.agent.control import Act, Command
from lb_probe.agent.node import Counted, Part, Reading
from lb_probe.core.model import Gate, Role
from lb_probe.core.peer_report import parse
from lb_probe.events import audit
from lb_probe.ports import Refused


class Toy(Part):
    """Says hello, counts it, refuses, streams, and crashes once."""

    name = "toy"
    counters = (Counted("toys", "Toys made", "toy.made", ("colour",)),)

    def __init__(self, node):
        self.node = node
        self.runs = 0
        self.is_closed = asyncio.Event()

    def commands(self):
        return (
            Command(name="toy-make", request=Act, answer=self.make, acts=True),
            Command(name="toy-refuse", request=Act, answer=self.refuse, acts=True),
            Command(name="toy-watch", request=Act, stream=self.watch),
        )

    def status(self):
        return {"runs": self.runs}

    def report(self):
        return {"version": "7.1"}

    def gauges(self):
        return [Reading("toy_runs", "Runs so far", self.runs, {"kind": "wood"})]

    async def make(self, request, caller):
        self.node.emit("toy.made", colour="red")
        return {"made": caller.by}

    async def refuse(self, request, caller):
        raise Refused("no wood", [Gate("wood", False, "none", "some")], "chop")

    async def watch(self, request, caller):
        try:
            for number in range(1_000_000):
                yield {"number": number}
                await asyncio.sleep(0.001)
        finally:
            self.is_closed.set()

    async def run(self):
        self.runs += 1
        if self.runs == 1:
            raise RuntimeError("fell over")
        await asyncio.Event().wait()


@pytest.fixture
def running(tmp_path, clock, sink, eventually, monkeypatch):
    monkeypatch.setattr(daemon, "RESTART_S", 0.01)

    @asynccontextmanager
    async def start(*parts):
        stop = asyncio.Event()
        setup = daemon.Setup(
            node="a",
            role=Role.SECONDARY,
            listen=("127.0.0.1", 0),
            control=tmp_path / "a.sock",
            state=tmp_path / "a.json",
            report=("127.0.0.1", 0),
            parts=parts,
        )
        task = asyncio.ensure_future(daemon.run(setup, clock, stop, sink))
        await eventually(lambda: task.done() or bool(sink.named("agent.started")))
        try:
            yield tmp_path / "a.sock", sink.named("agent.started")[-1].fields["report"]
        finally:
            stop.set()
            await task

    return start


async def test_a_part_brings_commands_a_section_metrics_and_is_started_again(
    running, call, sink, eventually, tmp_path
):
    made = []
    async with (
        running(lambda node: made.append(Toy(node)) or made[0]) as (control, report),
        aiohttp.ClientSession() as session,
    ):
        (toy,) = made
        await eventually(lambda: toy.runs == 2)
        (crash,) = sink.named("part.crashed")
        assert crash.fields == {"node": "a", "part": "toy", "detail": "RuntimeError: fell over"}
        assert (await call(control, {"command": "toy-make", "reason": "x"}))["made"][:4] == "uid "
        refusal = await call(control, {"command": "toy-refuse", "override": ["wood"]})
        assert (refusal["error"], refusal["paste"]) == ("refused", "chop")
        assert refusal["gates"][0]["id"] == "wood"
        assert (await call(control, {"command": "status"}))["toy"] == {"runs": 2}
        async with session.get(f"http://{report}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        assert 'lb_probe_agent_toys_total{colour="red",node="a"} 1.0' in lines
        assert 'lb_probe_agent_toy_runs{kind="wood",node="a"} 2.0' in lines
        assert 'lb_probe_agent_state{node="a",state="standby"} 1.0' in lines
        async with session.get(f"http://{report}/agent/v1/report") as answer:
            said = parse(await answer.json())
        assert (said.node, said.version, said.state, said.ha_enabled) == (
            "a",
            "7.1",
            "standby",
            False,
        )
    record = list(audit.lines(tmp_path / "a.json.audit.jsonl"))
    acts = [(line["action"], line["outcome"], line["reason"]) for line in record]
    assert acts == [
        ("toy-make", "asked", "x"),
        ("toy-make", "done", "x"),
        ("toy-refuse", "asked", ""),
        ("toy-refuse", "refused: no wood", ""),
    ]


async def test_a_stream_ends_with_its_reader_or_with_the_agent(running):
    made = []
    async with running(lambda node: made.append(Toy(node)) or made[0]) as (control, _):
        (toy,) = made
        reader, writer = await asyncio.open_unix_connection(str(control))
        writer.write(b'{"command": "toy-watch"}\n')
        assert json.loads(await reader.readline()) == {"number": 0}
        assert json.loads(await reader.readline()) == {"number": 1}
        writer.close()
        async with asyncio.timeout(20):
            await toy.is_closed.wait()
        reader, writer = await asyncio.open_unix_connection(str(control))
        writer.write(b'{"command": "toy-watch"}\n')
        assert json.loads(await reader.readline()) == {"number": 0}
    assert b"error" not in await asyncio.wait_for(reader.read(), 20)
    writer.close()


async def test_an_act_that_cannot_be_put_on_record_is_not_done(running, call, sink, tmp_path):
    async with running(Toy) as (control, _):
        (tmp_path / "a.json.audit.jsonl").unlink()
        (tmp_path / "a.json.audit.jsonl").mkdir()
        refusal = await call(control, {"command": "toy-make"})
        assert refusal["error"] == "failed"
        assert "cannot be written" in refusal["detail"]
        assert not sink.named("toy.made")
