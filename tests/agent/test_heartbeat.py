"""The heartbeat and what follows it, against a partner on loopback and with real programs."""

import asyncio
import json
import os
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from descriptors import none_left
from watched_peer import ERROR, HANG, OK, PRIMARY, RESET, STANDBY, watched

from lb_probe.agent import daemon, promotion, state
from lb_probe.agent.heartbeat import Heartbeat
from lb_probe.agent.promotion import Commands, Promotion
from lb_probe.agent.state import StateFile
from lb_probe.core.heartbeat import Controls
from lb_probe.core.holds import Holds, proof
from lb_probe.core.model import Gate, Role

FAST = Controls(interval_s=0.05, failures=3, recheck_s=0.02, timeout_s=0.2)


@dataclass
class Watching:
    """A Standby with HA enabled, beside its partner."""

    peer: object
    node: object
    control: Path
    call: object

    async def status(self):
        return await self.call(self.control, {"command": "status"})

    async def says(self):
        return (await self.status())["heartbeat"]["says"]

    def told(self, word):
        """Say what a prober says of this node's traffic."""
        ear = self.node.traffic
        sealed = proof(b"hush", ear.challenge, "b", word)
        said = {"holds": word.value, "challenge": ear.challenge, "proof": sealed}
        assert ear.hear(said)


@pytest.fixture
def watching(tmp_path, clock, sink, call, eventually):
    """Run an agent whose heartbeat watches a partner; `promote` is its command, or None."""

    @asynccontextmanager
    async def start(
        controls=FAST,
        promote=None,
        ha=True,
        ports=(),
        guards=(),
        peer_says=(OK, PRIMARY),
        waits=False,
        **commands,
    ):
        made = []
        given = Commands(promote=promote or (), timeout_s=5, verify_s=1, **commands)

        def heartbeat(node):
            made.append(node)
            node.promote_guards += guards
            by_itself = Promotion(node, given) if promote else None
            pages = peer.pages(clock, controls.timeout_s, ports)
            return Heartbeat(node, pages, controls, by_itself, waits_for_traffic=waits)

        async with watched(*peer_says) as peer:
            stop = asyncio.Event()
            setup = daemon.Setup(
                node="b",
                role=Role.SECONDARY,
                listen=("127.0.0.1", 0),
                control=tmp_path / "b.sock",
                state=tmp_path / "b.json",
                parts=[heartbeat],
                commands=given,
                secret=b"hush" if waits else b"",
            )
            already = len(sink.named("agent.started"))
            task = asyncio.ensure_future(daemon.run(setup, clock, stop, sink))
            await eventually(lambda: task.done() or len(sink.named("agent.started")) > already)
            one = Watching(peer, made[0], tmp_path / "b.sock", call)
            try:
                if ha:
                    await call(one.control, {"command": "ha-enable"})
                yield one
            finally:
                stop.set()
                await task

    return start


def noting(folder: Path, code: str = "") -> tuple[str, ...]:
    """A command that adds a line to FOLDER/runs, with what it was told."""
    line = 'echo "$LB_PROBE_NODE $LB_PROBE_CAUSE" >> "$0/runs"; ' + code
    return ("sh", "-c", line, str(folder))


def runs(folder: Path) -> list[str]:
    path = folder / "runs"
    return path.read_text().splitlines() if path.exists() else []


# ------------------------------------------------------------------ watching
async def test_without_ha_nobody_is_watched_and_nothing_happens(watching, eventually, tmp_path):
    """R68, R69: off until enabled, and off again at once."""
    async with watching(promote=noting(tmp_path), ha=False) as one:
        one.peer.die()
        assert await one.says() == "off"
        await asyncio.sleep(0.2)
        assert one.peer.asked == 0
        one.peer.be(OK, ERROR)
        await one.call(one.control, {"command": "ha-enable", "reason": "step 3"})
        await eventually(lambda: one.peer.asked > 3)
        assert (await one.status())["ha"]["reason"] == "step 3"
        again = await one.call(one.control, {"command": "ha-enable", "reason": "once more"})
        assert (again["changed"], again["ha"]["reason"]) == (False, "step 3")
        await one.call(one.control, {"command": "ha-disable"})
        one.peer.die()
        assert await one.says() == "off"
        asked = one.peer.asked
        await asyncio.sleep(0.2)
        assert one.peer.asked <= asked + 2  # an attempt that was under way
    assert runs(tmp_path) == []
    with StateFile(tmp_path / "b.json", node="b", role=Role.SECONDARY, now_wall=0) as file:
        assert not file.current.ha.is_on  # and a restart keeps it


async def test_what_speaks_against_the_peer_and_what_does_not(watching, eventually):
    with socket.create_server(("127.0.0.1", 0)) as port:
        async with watching(ports=[port.getsockname()[1]]) as one:

            async def turns(word):
                await eventually(lambda: is_so(word))

            async def is_so(word):
                return await one.says() == word

            await turns("ok")
            one.peer.be(ERROR, ERROR)
            await turns("failed")
            one.peer.be(ERROR, STANDBY)  # somebody made it stand by: that is not dead
            await turns("ok")
            one.peer.die(HANG)
            await turns("failed")
            one.peer.be(OK, RESET)  # a Primary may have no hastatus page
            await turns("ok")
            port.close()
            await turns("failed")
            detail = (await one.status())["heartbeat"]["last"]["detail"]
            assert detail.endswith(": connect-refused: Connection refused")


async def test_what_this_machine_cannot_do_is_no_failure_of_the_peer(
    watching, eventually, sink, tmp_path
):
    """X15: else a Standby that is out of file descriptors promotes itself beside its Primary."""
    promote = ("/bin/touch", str(tmp_path / "promoted"))
    async with watching(promote=promote):
        await eventually(lambda: sink.named("agent.heartbeat") != [])
        with none_left():
            before = len(sink.named("agent.heartbeat"))
            await eventually(lambda: len(sink.named("agent.heartbeat")) > before + 8)
            found = {
                event.fields["result"] for event in sink.named("agent.heartbeat")[before + 1 :]
            }
        assert found == {"local"}
        await eventually(lambda: sink.named("agent.heartbeat")[-1].fields["result"] == "ok")
        assert not (tmp_path / "promoted").exists()
        assert sink.named("agent.heartbeat-failed") == []


async def test_attempts_come_when_the_arithmetic_says(watching, eventually):
    """R61, R63: an interval from start to start, a re-check after the end of a failure."""
    controls = Controls(interval_s=0.2, failures=50, recheck_s=0.06, timeout_s=0.1)
    async with watching(controls=controls) as one:
        heartbeat = one.node.reports[0].__self__
        await eventually(lambda: len(heartbeat._log) >= 4)
        one.peer.die(HANG)
        await eventually(lambda: len(heartbeat._log) >= 10)
        one.peer.die(RESET)
        await eventually(lambda: len(heartbeat._log) >= 16)
        entries = list(heartbeat._log)
    late = []
    for entry, following in pairwise(entries):
        wait = controls.interval_s if entry.passed else entry.took_s + controls.recheck_s
        late.append(following.at_wall - entry.at_wall - wait)
    assert min(late) > -0.002
    assert sorted(late)[len(late) * 3 // 4] < 0.02  # the rest for a machine that is busy
    assert {entry.passed for entry in entries} == {True, False}


async def test_the_log_is_told_and_followed(watching, eventually):
    """R100: each attempt, its result, the count, and when the next one is."""
    async with watching() as one:
        await eventually(lambda: one.peer.asked >= 4)
        reader, writer = await asyncio.open_unix_connection(str(one.control))
        writer.write(b'{"command": "logs-heartbeat", "follow": true, "lines": 1}\n')
        first = json.loads(await reader.readline())
        assert (first["result"], first["failures"], first["of"]) == ("ok", 0, 3)
        assert first["at"] < first["next"]
        one.peer.die()
        async with asyncio.timeout(20):
            while (line := json.loads(await reader.readline()))["failures"] < 2:
                pass
        assert line["detail"].startswith("status page: reset: ")
        writer.close()
        few = await one.call(one.control, {"command": "logs-heartbeat", "lines": 1001})
        assert few["error"] == "invalid"


# ------------------------------------------------------------------ keep in standby
async def test_keep_in_standby_tells_and_does_nothing(watching, eventually, sink, tmp_path):
    """R64."""
    async with watching() as one:
        one.peer.die()
        await eventually(lambda: len(sink.named("agent.heartbeat-failed")) == 1)
        asked = one.peer.asked
        await eventually(lambda: one.peer.asked > asked + 6)
        status = await one.status()
        assert (status["mode"], status["heartbeat"]["says"]) == ("standby", "failed")
        one.peer.be(OK, ERROR)
        await eventually(lambda: len(sink.named("agent.heartbeat-recovered")) == 1)
    (failed,) = sink.named("agent.heartbeat-failed")  # once an incident
    assert not sink.named("agent.heartbeat-off")
    assert (failed.fields["peer"], failed.fields["failures"]) == ("peer", 3)
    assert failed.fields["then"] == "keep-in-standby"


async def test_what_was_told_of_a_peer_is_over_when_nobody_watches_it(watching, eventually, sink):
    """Nobody else would say it: the alarm would stand for ever."""
    async with watching() as one:
        one.peer.die()
        await eventually(lambda: len(sink.named("agent.heartbeat-failed")) == 1)
        await one.call(one.control, {"command": "ha-disable"})
        await eventually(lambda: len(sink.named("agent.heartbeat-off")) == 1)
        await one.call(one.control, {"command": "ha-enable"})
        await eventually(lambda: len(sink.named("agent.heartbeat-failed")) == 2)
        one.peer.be(OK, ERROR)
        await eventually(lambda: len(sink.named("agent.heartbeat-recovered")) == 1)
    (off,) = sink.named("agent.heartbeat-off")
    assert (off.fields["peer"], off.fields["reason"]) == ("peer", "HA is disabled")


# ------------------------------------------------------------------ promote
async def test_promote_runs_the_command_once_then_says_primary_and_serves(
    watching, eventually, sink, tmp_path
):
    """R5, R65, R67: the command, the mode with its cause, and serving, each seen."""
    async with watching(promote=noting(tmp_path, "sleep 0.1")) as one:
        one.peer.die()
        await eventually(lambda: len(sink.named("agent.serving")) == 1)
        status = await one.status()
        assert (status["mode"], status["state"], status["cause"]) == (
            "primary",
            "active",
            "heartbeat",
        )
        assert status["reason"].startswith("peer failed 3 heartbeats: status page: reset")
        assert status["pages"]["status"]["text"] == OK
        assert status["heartbeat"]["says"] == "off"  # a Primary has nobody to take over from
        asked = one.peer.asked
        await asyncio.sleep(0.2)
        assert one.peer.asked == asked
    assert runs(tmp_path) == ["b heartbeat"]
    names = [event.name for event in sink.events]
    told = ["agent.heartbeat-failed", "agent.mode-changed", "agent.serving"]
    assert [name for name in names if name in told] == told
    assert [event.fields["reason"] for event in sink.named("agent.heartbeat-off")] == [
        "it is Primary"
    ]


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("echo no database; exit 4", "sh: it ended with exit status 4: no database"),
        ("kill -9 $$", "sh: it ended by signal 9"),
    ],
)
async def test_a_promotion_that_fails_is_told_and_not_tried_again(
    watching, eventually, sink, tmp_path, code, found
):
    async with watching(promote=noting(tmp_path, code)) as one:
        one.peer.die()
        await eventually(lambda: len(sink.named("agent.promotion-failed")) == 1)
        asked = one.peer.asked
        await eventually(lambda: one.peer.asked > asked + 6)  # it goes on watching
        status = await one.status()
        assert status["mode"] == "standby"
        assert status["heartbeat"]["promotion"]["outcome"] == found
        assert runs(tmp_path) == ["b heartbeat"]
        # The next incident is another one.
        assert not sink.named("agent.promotion-over")
        one.peer.be(OK, ERROR)
        await eventually(lambda: one.node.state.promotion is None)
        await eventually(lambda: len(sink.named("agent.promotion-over")) == 1)
        one.peer.die()
        await eventually(lambda: len(runs(tmp_path)) == 2)
    assert sink.named("agent.promotion-failed")[0].fields["detail"] == found


async def test_a_crash_while_the_command_runs_does_not_run_it_twice(
    watching, eventually, sink, tmp_path
):
    slow = noting(tmp_path, "sleep 600")
    async with watching(promote=slow) as one:
        one.peer.die()
        await eventually(lambda: runs(tmp_path) == ["b heartbeat"])
        # The context ends the agent while its command runs.
    async with watching(promote=slow, ha=False, peer_says=(RESET, RESET)) as one:
        await eventually(lambda: len(sink.named("agent.promotion-failed")) == 1)
        await eventually(lambda: one.peer.asked > 10)
        assert "nobody knows" in (await one.status())["heartbeat"]["promotion"]["outcome"]
    assert runs(tmp_path) == ["b heartbeat"]


async def test_a_guard_that_is_closed_stops_a_promotion_until_it_opens(
    watching, eventually, sink, tmp_path
):
    """R80; X22: what cannot be told does not pass."""
    opened = asyncio.Event()

    async def connected() -> Gate:
        return Gate("connected", opened.is_set(), "no test in 24 h", "a recent test-connection")

    async with watching(promote=noting(tmp_path), guards=[connected]) as one:
        one.peer.die()
        await eventually(lambda: len(sink.named("agent.promotion-refused")) == 1)
        asked = one.peer.asked
        await eventually(lambda: one.peer.asked > asked + 6)
        assert runs(tmp_path) == []
        opened.set()
        await eventually(lambda: one.node.state.mode.value == "primary")
        await eventually(lambda: len(sink.named("agent.serving")) == 1)
    (refused,) = sink.named("agent.promotion-refused")  # told once, judged at each attempt
    assert refused.fields["gates"] == ["connected"]
    assert not sink.named("agent.promotion-over")


async def test_a_refusal_is_over_when_the_peer_answers_again_or_ha_is_disabled(
    watching, eventually, sink, tmp_path
):
    async def connected() -> Gate:
        return Gate("connected", False, "no test in 24 h", "a recent test-connection")

    async with watching(promote=noting(tmp_path), guards=[connected]) as one:
        one.peer.die()
        await eventually(lambda: len(sink.named("agent.promotion-refused")) == 1)
        one.peer.be(OK, PRIMARY)
        await eventually(lambda: len(sink.named("agent.promotion-over")) == 1)
        one.peer.die()
        await eventually(lambda: len(sink.named("agent.promotion-refused")) == 2)
        await one.call(one.control, {"command": "ha-disable"})
        await eventually(lambda: len(sink.named("agent.promotion-over")) == 2)


async def test_a_promotion_that_failed_is_over_when_it_is_made_by_hand(
    watching, eventually, sink, tmp_path
):
    async with watching(promote=noting(tmp_path, "exit 4")) as one:
        one.peer.die()
        await eventually(lambda: len(sink.named("agent.promotion-failed")) == 1)
        ask = {"command": "failover-mode", "mode": "primary", "override": ["promote-command"]}
        await one.call(one.control, ask)
        await eventually(lambda: len(sink.named("agent.serving")) == 1)


async def test_a_mode_that_cannot_be_saved_is_told_once(
    watching, eventually, sink, tmp_path, monkeypatch
):
    """The disk fills while the command runs; the application serves, so it is tried for ever."""
    tries = []
    write = state._write_synced

    def refuse(path, data):
        if b'"mode": "primary"' in data or b'"mode":"primary"' in data:
            tries.append(path)
            raise OSError(28, "No space left on device")
        write(path, data)

    monkeypatch.setattr(promotion, "_RETRY_S", 0.02)
    monkeypatch.setattr(state, "_write_synced", refuse)
    async with watching(promote=noting(tmp_path)) as one:
        one.peer.die()
        await eventually(lambda: len(tries) > 4)
        assert len(sink.named("agent.promotion-failed")) == 1
        monkeypatch.setattr(state, "_write_synced", write)
        await eventually(lambda: len(sink.named("agent.serving")) == 1)


async def test_a_promotion_that_cannot_be_saved_is_not_begun(
    watching, eventually, sink, tmp_path, monkeypatch
):
    """A full disk."""
    async with watching(promote=noting(tmp_path)) as one:

        def refuse(path, data):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(state, "_write_synced", refuse)
        one.peer.die()
        await eventually(lambda: len(sink.named("agent.promotion-failed")) >= 1)
        assert runs(tmp_path) == []
        assert "No space left" in sink.named("agent.promotion-failed")[0].fields["detail"]
        monkeypatch.undo()
        await eventually(lambda: one.node.state.mode.value == "primary")
    assert runs(tmp_path) == ["b heartbeat"]


async def test_a_node_that_does_not_serve_after_its_promotion_is_told_of(
    watching, eventually, sink, tmp_path
):
    async with watching(promote=noting(tmp_path)) as one:
        one.node.pages.obstacles["test"] = "the application is still starting"
        one.peer.die()
        await eventually(lambda: len(sink.named("agent.not-serving")) == 1)
        reasons = sink.named("agent.not-serving")[0].fields["reasons"]
        assert reasons == ["the application is still starting"]
        assert one.node.word == "not_available"
        assert not sink.named("agent.serving")
        del one.node.pages.obstacles["test"]
        await eventually(lambda: len(sink.named("agent.serving")) == 1)


# ------------------------------------------------------------------ the operator's commands
async def test_failover_mode_runs_the_programs_in_the_right_order(
    watching, eventually, tmp_path, call
):
    """R119 to R121: promote before the page says Primary, demote after it says Standby."""
    look = 'grep -o "\\"mode\\": \\"[a-z]*\\"" "$0/b.json" >> "$0/runs"'
    async with watching(
        promote=noting(tmp_path, look), demote=noting(tmp_path, look), ha=False
    ) as one:
        ask = {"command": "failover-mode", "mode": "primary", "reason": "takeover"}
        for changed in (True, False, False):  # it can be re-executed
            answer = await call(one.control, ask)
            assert (answer["changed"], answer["state"]) == (changed, "active")
        answer = await call(one.control, ask | {"mode": "secondary"})
        assert (answer["changed"], answer["state"]) == (True, "standby")
    saw = ["b operator", '"mode": "standby"']
    assert runs(tmp_path) == saw + saw


async def test_a_program_that_fails_is_a_gate_that_an_operator_opens(watching, tmp_path, call):
    async with watching(promote=noting(tmp_path, "exit 3"), ha=False) as one:
        ask = {"command": "failover-mode", "mode": "primary", "reason": "now"}
        refused = await call(one.control, ask)
        assert (refused["error"], refused["gates"][0]["id"]) == ("refused", "promote-command")
        assert "exit status 3" in refused["detail"]
        assert refused["paste"].endswith("mode primary --node b --override promote-command")
        assert one.node.state.mode.value == "standby"
        opened = await call(one.control, ask | {"override": ["promote-command"]})
        assert opened["mode"] == "primary"


async def test_clients_are_turned_away_and_shown_until_they_are_not(
    watching, eventually, sink, tmp_path, call
):
    """R123, R124: the command runs each time, in both orders, and a failure stays shown."""
    flag = tmp_path / "broken"
    on = noting(tmp_path, f'test ! -e "{flag}"')
    async with watching(client_disable=noting(tmp_path), client_enable=on) as one:
        for word, changed in (("enable", False), ("disable", True), ("disable", False)):
            answer = await call(one.control, {"command": f"client-{word}", "reason": word})
            assert answer["changed"] is changed
        assert answer["clients"]["enabled"] is False
        assert answer["clients"]["by"] == f"uid {os.geteuid()}"
        assert answer["warnings"]
        flag.touch()
        failed = await call(one.control, {"command": "client-enable"})
        assert failed["error"] == "failed"
        assert (await one.status())["clients"]["enabled"] is False
        flag.unlink()
        answer = await call(one.control, {"command": "client-enable"})
        assert (answer["clients"]["enabled"], answer["changed"]) == (True, True)
    assert runs(tmp_path) == ["b operator"] * 5
    told = [event.name for event in sink.events if "clients" in event.name]
    assert told == [
        "agent.clients-enabled",
        *["agent.clients-disabled"] * 2,
        "agent.clients-enabled",
    ]


async def test_without_a_program_clients_cannot_be_turned_away(watching, call):
    async with watching() as one:
        failed = await call(one.control, {"command": "client-disable"})
    assert failed["error"] == "failed"
    assert "found no commands.client_disable_command of node b" in failed["detail"]


# ------------------------------------------------------------------ the order of flip and promotion
async def test_flip_then_promote_waits_until_the_traffic_is_here(
    watching, eventually, tmp_path, sink
):
    """R65: a Standby that stays one is what the rule needs; promoted before, traffic would stay."""
    async with watching(promote=noting(tmp_path), waits=True) as one:
        one.told(Holds.NO)
        one.peer.die()
        await eventually(lambda: bool(sink.named("agent.heartbeat-failed")))
        assert sink.named("agent.heartbeat-failed")[0].fields["then"] == "flip-then-promote"
        asked = len(sink.named("agent.heartbeat"))
        await eventually(lambda: len(sink.named("agent.heartbeat")) > asked + 3)
        one.told(Holds.SOON)  # decided, and no load balancer sends here yet
        asked = len(sink.named("agent.heartbeat"))
        await eventually(lambda: len(sink.named("agent.heartbeat")) > asked + 3)
        assert runs(tmp_path) == []
        assert (await one.status())["mode"] == "standby"
        one.told(Holds.YES)
        await eventually(lambda: bool(sink.named("agent.serving")))
        status = await one.status()
    assert status["mode"] == "primary"
    assert status["cause"] in {"traffic", "heartbeat"}  # what was seen first
    assert status["heartbeat"]["order"] == "flip-then-promote"
    assert runs(tmp_path) == [f"b {status['cause']}"]


async def test_traffic_that_came_promotes_though_the_peer_is_alive_and_once(
    watching, eventually, tmp_path, sink
):
    """R65, facts 4: the load balancer lost the Primary and this node did not."""
    promote = noting(tmp_path, "exit 3")
    async with watching(promote=promote, waits=True) as one:
        await eventually(lambda: one.peer.asked > 3)
        one.told(Holds.NO)
        one.told(Holds.YES)
        await eventually(lambda: bool(sink.named("agent.promotion-failed")))
        asked = len(sink.named("agent.heartbeat"))
        await eventually(lambda: len(sink.named("agent.heartbeat")) > asked + 6)
        # The peer answers, so the incident of the heartbeat is over; this one had its attempt.
        assert runs(tmp_path) == ["b traffic"]
        assert (await one.status())["mode"] == "standby"


async def test_promote_by_itself_does_not_ask_where_the_traffic_is(watching, eventually, tmp_path):
    """R29, R65: the other order, as EPMM does it."""
    async with watching(promote=noting(tmp_path)) as one:
        await eventually(lambda: one.peer.asked > 0)
        one.peer.die()
        await eventually(lambda: runs(tmp_path) == ["b heartbeat"])
        assert (await one.status())["heartbeat"]["order"] == "promote-by-itself"
