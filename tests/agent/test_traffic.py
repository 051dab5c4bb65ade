"""How an agent learns from its prober whether clients are sent to it, and what it does then."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import pytest

from lb_probe.agent import daemon
from lb_probe.agent.node import Node
from lb_probe.agent.state import Switch
from lb_probe.agent.traffic import CHALLENGE_S, FRESH_S, Traffic
from lb_probe.app import agents_heard
from lb_probe.core.holds import Holds, proof
from lb_probe.core.model import Mode, Role
from lb_probe.prober.agent_report import Agent, ask
from lb_probe.render.agent import agent_block
from lb_probe.render.text import Look

SECRET = b"hush"


@dataclass
class Ear:
    """A node that is told of its traffic, as a prober would."""

    node: Node
    part: Traffic

    def told(self, word, *, secret=SECRET, name="a", challenge=None):
        challenge = self.part.challenge if challenge is None else challenge
        sealed = proof(secret, challenge, name, word)
        return self.part.hear({"holds": word.value, "challenge": challenge, "proof": sealed})

    @property
    def holds(self):
        return self.part.report()["holds_traffic"]


@pytest.fixture
async def ear(serve):
    async with serve(Role.SECONDARY) as served:
        node = Node(
            "a",
            Role.SECONDARY,
            state=served.state,
            checks=served.checks,
            pages=served.pages,
            clock=served.clock,
            sink=served.sink,
        )
        await node.save(lambda now: {"ha": Switch(is_on=True)})
        yield Ear(node, Traffic(node, SECRET))


async def test_only_a_word_with_the_secret_for_this_node_and_now_is_believed(ear):
    old = ear.part.challenge
    assert not ear.told(Holds.YES, secret=b"other")
    assert not ear.told(Holds.YES, name="b")
    assert not ear.told(Holds.YES, challenge="")
    assert not ear.part.hear({"holds": "yes", "challenge": old, "proof": "\u20ac"})
    assert not ear.part.hear({"holds": "oui", "challenge": old, "proof": "x"})
    assert ear.part.word is None
    assert ear.holds is None
    assert ear.told(Holds.YES)
    assert ear.told(Holds.NO)
    ear.node.clock.jumped_s += 2 * CHALLENGE_S
    assert not ear.told(Holds.YES, challenge=old)  # told again, later: a recording
    assert ear.part.word.holds is Holds.NO
    assert ear.told(Holds.YES)


async def test_the_yes_of_a_silent_prober_stands_and_its_no_does_not(ear):
    """R122: who fell silent moved no traffic since."""
    assert ear.told(Holds.NO)
    ear.node.clock.jumped_s += FRESH_S + 1
    assert ear.holds is None
    assert ear.told(Holds.SOON)
    assert ear.holds is True
    assert ear.told(Holds.UNKNOWN)
    assert ear.holds is None
    assert ear.told(Holds.YES)
    assert ear.part.is_here
    assert ear.part.status()["is_silent"] is False
    assert traffic_line(ear) == "traffic: clients are sent here, says the prober"
    ear.node.clock.jumped_s += FRESH_S + 1
    assert ear.holds is True
    assert not ear.part.is_here
    assert ear.part.silent_s > FRESH_S
    assert ear.part.status()["is_silent"] is True
    said = "traffic: clients are sent here, as the prober said "
    assert traffic_line(ear).startswith(said)


def traffic_line(ear):
    """What `agent status` shows of it: who asks judges no age himself."""
    answer = {"traffic": ear.part.status()}
    (line,) = [one for one in agent_block(answer, Look()) if one.startswith("traffic:")]
    return line


async def test_a_primary_with_clients_does_not_stand_by(ear):
    """R121: refused unless clients are turned away, or it is opened by name."""
    (gate,) = await ear.node.may_demote()
    assert gate.passed
    ear.told(Holds.YES)
    (gate,) = await ear.node.may_demote()
    assert (gate.id, gate.passed, gate.open_with) == ("no-traffic", False, "override")
    assert gate.found == "clients are sent to a"
    await ear.node.save(lambda now: {"clients": Switch(is_on=False)})
    (gate,) = await ear.node.may_demote()
    assert gate.passed


async def test_traffic_arrives_at_a_standby_once_and_only_from_elsewhere(ear):
    """R65: after a restart of either nobody knows whether it came just now."""
    part, node = ear.part, ear.node
    ear.told(Holds.YES)
    assert not part.has_arrived
    for word in (Holds.NO, Holds.SOON, Holds.YES, Holds.YES):
        ear.told(word)
    assert part.has_arrived
    part.settle()
    ear.told(Holds.YES)
    assert not part.has_arrived
    ear.told(Holds.NO)
    ear.told(Holds.YES)
    assert part.has_arrived
    # An operator has decided since: what arrived before is dealt with.
    await node.change_mode(Mode.PRIMARY, cause="operator", by="uid 0", reason="")
    node.clock.jumped_s += 1
    await node.save(lambda now: {"mode": Mode.STANDBY, "since_wall": now.since_wall + 5})
    ear.told(Holds.YES)
    assert part.is_here
    assert not part.has_arrived
    await node.save(lambda now: {"ha": Switch(is_on=False)})
    ear.told(Holds.NO)
    ear.told(Holds.YES)
    assert not part.has_arrived  # HA is off: nothing is to follow, later neither


# ------------------------------------------------------------------ with a prober's ear
@asynccontextmanager
async def agent(tmp_path, clock, sink, eventually, secret=SECRET):
    """A real agent with a report; yields its node and the port of the report."""
    nodes, stop = [], asyncio.Event()

    def part(node):
        nodes.append(node)
        return daemon.Part()

    setup = daemon.Setup(
        node="b",
        role=Role.SECONDARY,
        listen=("127.0.0.1", 0),
        control=tmp_path / "b.sock",
        state=tmp_path / "b.json",
        report=("127.0.0.1", 0),
        secret=secret,
        parts=[part],
    )
    task = asyncio.ensure_future(daemon.run(setup, clock, stop, sink))
    await eventually(lambda: task.done() or bool(sink.named("agent.started")))
    (started,) = sink.named("agent.started")
    try:
        yield nodes[0], int(started.fields["report"].rpartition(":")[2])
    finally:
        stop.set()
        await task


async def test_a_prober_tells_with_every_question_but_the_first(
    tmp_path, clock, sink, eventually, monkeypatch, call
):
    """R122: end to end over loopback; news at once; shown in status, report and metrics."""
    monkeypatch.setattr(agents_heard, "INTERVAL_S", 3600.0)
    word, heard = [Holds.NO], []
    async with agent(tmp_path, clock, sink, eventually) as (node, port):
        asked = Agent("g", "b", "127.0.0.1", port, SECRET)
        listening = asyncio.ensure_future(
            agents_heard.listen(
                [asked],
                lambda group, name, found: heard.append(found),
                lambda group, name: word[0],
                clock,
            )
        )
        await eventually(lambda: node.report().holds_traffic is False)
        word[0] = Holds.YES
        await eventually(lambda: bool(heard[-1].report and heard[-1].report.holds_traffic))
        status = await call(tmp_path / "b.sock", {"command": "status"})
        assert status["traffic"]["holds"] == "yes"
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/metrics") as answer:
                assert 'lb_probe_agent_traffic{holds="yes",node="b"} 1.0' in await answer.text()
            # Who has no secret is answered as ever, and changes nothing.
            stranger = Agent("g", "b", "127.0.0.1", port)
            found = await ask(stranger, session, clock, Holds.NO, heard[-1].challenge)
            assert found.report is not None
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        assert node.report().holds_traffic is True
    assert [e.fields["holds"] for e in sink.named("agent.traffic-told")] == ["no", "yes"]


async def test_without_a_secret_nothing_is_told(tmp_path, clock, sink, eventually):
    async with agent(tmp_path, clock, sink, eventually, secret=b"") as (node, port):
        async with aiohttp.ClientSession() as session:
            found = await ask(Agent("g", "b", "127.0.0.1", port), session, clock)
        assert found.challenge == ""
        assert node.traffic is None
        assert node.report().holds_traffic is None
