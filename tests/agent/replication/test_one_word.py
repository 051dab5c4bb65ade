"""A peer that lies about its mode is not copied from (X22)."""

from dataclasses import dataclass

import pytest
from sync_desk import ToyPeer

from lb_probe.agent.peer_pages import Look
from lb_probe.agent.replication.one_word import one_word
from lb_probe.core.model import Mode
from lb_probe.core.peer_report import PeerReport
from lb_probe.ports import Refused

P, S = Mode.PRIMARY, Mode.STANDBY


@dataclass
class Shown:
    mode: Mode | None
    name: str = "a"

    async def look(self):
        return Look("", self.mode, False, True, 0.0, 0.0)


@pytest.mark.parametrize(
    ("said", "shown", "passed"),
    [(P, P, True), (S, S, True), (P, S, False), (S, P, False), (P, None, True), (None, P, False)],
)
async def test_the_agent_and_the_page_of_a_peer_must_agree(standby, said, shown, passed):
    async with standby() as b:
        b.node.peer.said = PeerReport(node="a", mode=said)
        assert (await one_word(b.node, Shown(shown))()).passed is passed


async def test_a_guard_of_another_part_keeps_a_sync_back_and_opens_by_name(standby):
    async with standby() as b:
        b.node.sync_guards.append(one_word(b.node, Shown(S)))
        with pytest.raises(Refused, match="peer-of-one-word"):
            await b.sync()
        run = await b.sync(override=("peer-of-one-word",))
        assert run["overridden"] == ["peer-of-one-word"]


async def test_a_peer_that_is_gone_says_nothing(standby):
    async with standby() as b:
        b.node.peer = ToyPeer(said=None)
        assert (await one_word(b.node, Shown(P))()).found == "connection refused"
        b.node.peer = None
        assert not (await one_word(b.node, Shown(P))()).passed
