"""A node that comes back as Primary, and the pair as it is shown."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from watched_peer import ERROR, HANG, OK, PRIMARY, RESET, STANDBY, watched

from lb_probe.agent import daemon, returning
from lb_probe.agent import state as state_file
from lb_probe.agent.node import Node
from lb_probe.agent.notices import _TOLD, Notices, _filler
from lb_probe.agent.peer import PeerError
from lb_probe.agent.returning import Returning
from lb_probe.core.model import Event, Mode, Role
from lb_probe.core.notice import CLASSES, Stage
from lb_probe.core.peer_report import PeerReport


class Reporting:
    """A trusted partner that says what a test wants."""

    name = "peer"

    def __init__(self, report):
        self.said = report

    async def report(self):
        if self.said is None:
            raise PeerError("connection refused")
        return self.said


class Outbox:
    """Keeps notices by key, as the real one does."""

    def __init__(self):
        self.notices = {}

    async def put(self, notice):
        self.notices.setdefault(notice.key, notice)


@pytest.fixture
def back(tmp_path, clock, sink, call, eventually, monkeypatch):
    """Start a node beside its partner; it was Primary before, with HA enabled."""
    monkeypatch.setattr(returning, "ASK_S", 0.4)
    monkeypatch.setattr(returning, "ANSWERING_S", 1.2)
    monkeypatch.setattr(returning, "AGAIN_S", 0.05)

    @asynccontextmanager
    async def start(
        peer_says, role=Role.PRIMARY, report=False, saved=None, outbox=None, ha=True, wait=True
    ):
        path = tmp_path / "a.json"
        if not path.exists():
            on = {"is_on": ha}
            mode = {"mode": "primary", "since_wall": 100, "cause": "role", "ha": on}
            path.write_text(json.dumps({"version": 2, "node": "a"} | mode | (saved or {})))

        def part(node):
            if report is not False:
                node.peer = Reporting(report)
            return Returning(node, peer.pages(clock), 0.05)

        async with watched(*peer_says) as peer:
            stop = asyncio.Event()
            setup = daemon.Setup(
                node="a",
                group="g",
                role=role,
                listen=("127.0.0.1", 0),
                control=tmp_path / "a.sock",
                state=path,
                parts=[part],
                outbox=outbox,
            )
            already = len(sink.named("agent.started"))
            task = asyncio.ensure_future(daemon.run(setup, clock, stop, sink))
            await eventually(lambda: task.done() or len(sink.named("agent.started")) > already)

            async def ask(**request):
                return await call(setup.control, {"command": "status"} | request)

            async def is_settled():
                reasons = (await ask())["pages"]["hastatus"]["reasons"]
                return not any("asking" in reason for reason in reasons)

            try:
                if wait:
                    await eventually(is_settled)
                yield peer, ask
            finally:
                stop.set()
                await task

    return start


# ------------------------------------------------------------------ making way
async def test_a_primary_that_returns_beside_a_promoted_peer_keeps_out(back, sink):
    """X11, X12: both pages say ERROR, the reason is shown, and a restart changes nothing."""
    outbox = Outbox()
    for _ in range(2):
        async with back((OK, PRIMARY), outbox=outbox) as (peer, ask):
            status = await ask()
            for page in status["pages"].values():
                assert page["text"] == ERROR
                assert page["reasons"][0].startswith("quarantined: peer says Primary")
            assert (status["mode"], status["state"]) == ("primary", "not_available")
            assert status["quarantine"]["peer"] == "peer"
            assert status["pair"]["row"] == 3
            peer.be(OK, STANDBY)  # nothing ends it but an operator
            await asyncio.sleep(0.2)
            assert (await ask())["quarantine"]
    assert len(sink.named("agent.quarantined")) == 1
    (notice,) = outbox.notices.values()  # told once, though it was put again at the second start
    assert (notice.event_class, notice.alarm) == ("quarantined", "a/quarantine")
    assert "agent failover sync peer" in notice.do


@pytest.mark.parametrize(("mode", "text"), [("secondary", STANDBY), ("primary", PRIMARY)])
async def test_an_operator_ends_the_quarantine_either_way(back, sink, eventually, mode, text):
    outbox = Outbox()
    async with back((OK, PRIMARY), outbox=outbox) as (_, ask):
        answer = await ask(command="failover-mode", mode=mode, reason="decided")
        assert (answer["quarantine"], answer["changed"]) == (None, True)
        assert answer["pages"]["hastatus"]["text"] == text
        await eventually(lambda: any(n.stage is Stage.OVER for n in outbox.notices.values()))
    assert sink.named("agent.quarantine-ended")[0].fields["reason"] == "decided"


@pytest.mark.parametrize(
    ("peer_says", "text"),
    [
        ((ERROR, STANDBY), PRIMARY),
        ((RESET, RESET), PRIMARY),  # silent: no reason to stay away (X22)
        ((HANG, HANG), PRIMARY),
        ((OK, ERROR), PRIMARY),  # answers and does not say: waited for, then the same
    ],
)
async def test_a_peer_that_is_no_primary_or_does_not_say_keeps_nobody_out(
    back, eventually, peer_says, text
):
    async with back(peer_says, wait=False) as (_, ask):
        first = (await ask())["pages"]["hastatus"]
        assert first["text"] in (ERROR, text)
        if first["text"] == ERROR:
            assert first["reasons"] in (
                ["asking peer which mode it is in"],
                ["the page was not prepared in time"],
            )

        async def is_up():
            return (await ask())["pages"]["hastatus"]["text"] == text

        await eventually(is_up)
        assert (await ask())["quarantine"] is None


@pytest.mark.parametrize(
    ("role", "saved", "report", "keeps_out"),
    [
        # The report knows since when, whatever the page says.
        (Role.PRIMARY, {}, PeerReport(node="peer", mode=Mode.PRIMARY, promoted_at=500.0), True),
        (
            Role.SECONDARY,
            {"cause": "heartbeat", "since_wall": 600},
            PeerReport(node="peer", mode=Mode.PRIMARY),
            False,
        ),
        (
            Role.PRIMARY,
            {"cause": "operator", "since_wall": 600},
            PeerReport(node="peer", mode=Mode.PRIMARY, promoted_at=500.0),
            False,
        ),
        # No report: the page alone. A promoted Secondary does not make way for it.
        (Role.SECONDARY, {"cause": "heartbeat"}, None, False),
        (Role.PRIMARY, {}, None, True),
    ],
)
async def test_of_two_primaries_the_one_that_was_made_so_first_makes_way(
    back, role, saved, report, keeps_out
):
    async with back((OK, PRIMARY), role=role, saved=saved, report=report) as (_, ask):
        assert bool((await ask())["quarantine"]) is keeps_out


@pytest.mark.parametrize("says", [(ERROR, ERROR), (OK, STANDBY)])
async def test_two_primaries_are_over_when_the_peer_says_so(back, eventually, sink, says):
    async with back((OK, PRIMARY), ha=False) as (peer, ask):
        await eventually(lambda: len(sink.named("agent.dual-primary")) == 1)
        peer.be(*says)
        await eventually(lambda: len(sink.named("agent.dual-primary-over")) == 1)
        assert (await ask())["pair"]["dual_primary"] is False


async def test_without_ha_a_node_comes_back_as_it_was(back, eventually, sink):
    """R68; two Primaries are told of all the same."""
    async with back((OK, PRIMARY), ha=False) as (peer, ask):

        async def looks_pass():
            first = peer.asked  # two pages a look, and one may be under way
            await eventually(lambda: peer.asked >= first + 6)

        status = await ask()
        assert (status["quarantine"], status["state"]) == (None, "active")
        await eventually(lambda: len(sink.named("agent.dual-primary")) == 1)
        assert (await ask())["pair"]["dual_primary"] is True
        peer.be(OK, HANG)
        await looks_pass()
        peer.die()
        await looks_pass()
        # Who cannot be asked has not given up being Primary.
        assert (await ask())["pair"]["dual_primary"] is True
        assert not sink.named("agent.dual-primary-over")
        peer.be(ERROR, STANDBY)
        await eventually(lambda: len(sink.named("agent.dual-primary-over")) == 1)
        # And it obeys: whether another one serves is asked with HA only.
        assert (await ask(command="failover-mode", mode="secondary"))["mode"] == "standby"


async def test_a_peer_that_keeps_out_itself_is_nobody_to_make_way_for(back):
    report = PeerReport(node="peer", mode=Mode.PRIMARY, promoted_at=500.0, quarantine="x")
    async with back((ERROR, ERROR), report=report) as (_, ask):
        status = await ask()
        assert (status["quarantine"], status["state"]) == (None, "active")
        assert status["pair"]["nodes"][1]["quarantined"] is True


async def test_a_quarantine_that_cannot_be_saved_keeps_the_pages_shut(
    back, sink, monkeypatch, eventually
):
    """A full disk."""

    tries = []

    def refuse(path, data):
        tries.append(path)
        raise OSError(28, "No space left on device")

    async with back((ERROR, STANDBY)):
        pass
    with monkeypatch.context() as disk:
        disk.setattr(state_file, "_write_synced", refuse)
        async with back((OK, PRIMARY), wait=False) as (_, ask):

            async def is_kept_out():
                return (await ask())["quarantine"] is not None

            await eventually(lambda: len(tries) >= 3)
            assert len(sink.named("agent.state-failed")) == 1  # the same again is told once
            assert (await ask())["pages"]["hastatus"]["text"] == ERROR
            disk.undo()
            await eventually(is_kept_out)


# ------------------------------------------------------------------ standing by on command
async def test_the_only_primary_does_not_stand_by_unless_it_is_told_to(back):
    """R121, fact 7."""
    async with back((ERROR, STANDBY)) as (peer, ask):
        request = {"command": "failover-mode", "mode": "secondary", "reason": "upgrade"}
        refused = await ask(**request)
        assert (refused["error"], refused["gates"][0]["id"]) == ("refused", "another-primary")
        assert refused["gates"][0]["found"] == "peer says standby"
        assert (await ask())["mode"] == "primary"
        peer.be(OK, PRIMARY)
        assert (await ask(**request))["mode"] == "standby"
        again = await ask(**request)  # idempotent, whatever the peer says now
        assert again["changed"] is False
        warning = again["warnings"][0]
        assert "does not restart the replication scheduler" in warning
        anew = await ask(**request, restart_scheduler=True)
        assert not any("does not restart" in text for text in anew["warnings"])
        assert anew["ha"]["since"] is not None


async def test_an_operator_who_means_it_opens_the_gate(back):
    async with back((ERROR, STANDBY)) as (_, ask):
        request = {"command": "failover-mode", "mode": "secondary"}
        answer = await ask(**request, override=["another-primary"])
        assert (answer["mode"], answer["pair"]["row"]) == ("standby", None)
        assert answer["pair"]["text"] == "a stands by as well: no node serves"


async def test_table_1_is_shown(back, eventually):
    """R4 to R6, seen from the Primary."""
    async with back((ERROR, STANDBY)) as (peer, ask):

        async def is_row(row):
            return (await ask())["pair"]["row"] == row

        await eventually(lambda: is_row(1))
        rows = (await ask())["pair"]["nodes"]
        assert [(one["name"], one["role"], one["state"]) for one in rows] == [
            ("a", "primary", "active"),
            ("peer", "secondary", "standby"),
        ]
        peer.be(OK, PRIMARY)
        await ask(command="failover-mode", mode="secondary")
        await eventually(lambda: is_row(3))


def test_every_notice_is_worded_whatever_its_event_says():
    fill = _filler({"node": "a", "gates": ["x", "y"]})
    for told in _TOLD.values():
        for text in (told.title, told.why, told.now, told.safe, told.do):
            assert not {"{", "}"} & set(fill(text))
        assert fill(told.title).startswith("a: ")
        assert told.event_class in CLASSES
    assert fill(_TOLD["agent.promotion-refused"].title) == "a: did not become Primary: x; y"


async def test_what_is_over_with_one_peer_is_not_over_with_another(serve, eventually):
    """A node of a group of three has two peers; alarms are told apart by their keys."""
    async with serve() as served:
        node = Node(
            "a",
            Role.PRIMARY,
            state=served.state,
            checks=served.checks,
            pages=served.pages,
            clock=served.clock,
            sink=served.sink,
        )
        node.outbox = outbox = Outbox()
        part = Notices(node, "g")
        for name, peer in (("apart", "b"), ("apart", "c"), ("near", "b")):
            part.take(Event(f"agent.clock-{name}", fields={"node": "a", "peer": peer}))
            await asyncio.sleep(0.002)  # each has a key of its moment
        for name, peer in (("missing", "b"), ("missing", "c"), ("mutual", "c")):
            part.take(Event(f"agent.trust-{name}", fields={"node": "a", "peer": peer}))
            await asyncio.sleep(0.002)
        task = asyncio.ensure_future(part.run())
        await eventually(lambda: len(outbox.notices) == 6)
        task.cancel()
        await asyncio.wait([task])
    stands = set()
    for one in outbox.notices.values():
        (stands.add if one.stage is Stage.OPEN else stands.remove)(one.alarm)
    assert stands == {"a/clock/c", "a/trust/b"}


async def test_without_trust_the_peers_clock_is_told_by_the_date_of_its_page(
    back, eventually, sink
):
    """R11: coarse, and there where the four stamps cannot be had."""
    async with back((OK, PRIMARY)) as (peer, ask):

        async def clock():
            return (await ask())["pair"]["clock"]

        async def is_so(severity):
            return (await clock())["severity"] == severity

        await eventually(lambda: is_so("unknown"))  # a page without a date
        said = ((0.0, "ok"), (-3.0, "warning"), (20.0, "error"), (None, "unknown"), (0.0, "ok"))
        for ahead_s, severity in said:
            peer.date_ahead_s = ahead_s
            await eventually(lambda severity=severity: is_so(severity))
            found = await clock()
            if ahead_s is None:  # who says nothing of its clock has not set it right
                assert not sink.named("agent.clock-near")
                continue
            assert found["by"] == "date"
            assert abs(found["offset_s"] - ahead_s) <= found["bound_s"] + 0.1
    (apart,) = sink.named("agent.clock-apart")
    assert "by the date of its page" in apart.fields["detail"]
    assert len(sink.named("agent.clock-near")) == 1
