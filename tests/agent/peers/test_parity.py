"""What two agents tell of their machines, and how the differences are shown."""

import re
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from free_ports import free_port
from loopback import listening, port_of

from lb_probe.agent.parity import facts
from lb_probe.agent.parity.part import read_facts
from lb_probe.agent.trust.standing import Clock
from lb_probe.core.clock_offset import Offset
from lb_probe.core.model import Mode

SAME_MACHINE = {"hostname", "machine"}  # two agents on one machine: true, and told


def print_line(text):
    return (sys.executable, "-c", f"print({text!r})")


def test_this_machine_is_read_as_the_system_tells_it():
    """R9, R75: against what other programs read from the same system."""
    found = facts.machine()
    memory = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    assert found["memory_bytes"] == int(memory[1]) * 1024
    cpus = subprocess.run(["nproc", "--all"], capture_output=True, text=True, check=True).stdout
    assert found["cpus"] == int(cpus)
    named = subprocess.run(["uname", "-n", "-m"], capture_output=True, text=True, check=True)
    hostname, hardware = named.stdout.split()
    assert found["hostname"] == hostname
    assert found["os"].endswith(hardware)
    assert found["is_clock_kept"] in {True, False, None}
    assert facts.disks([Path("/"), Path("/no/such")])["/no/such"] is None


async def test_differences_are_named_shown_counted_and_told(pair, eventually):
    """R8, R9, R23, R74, R81: software, configuration, destination and output differ."""

    async def stay(reader, writer):
        await reader.read()

    async with listening(stay) as server:
        open_port, closed_port = port_of(server), free_port()

        def change(two):
            both = {"destinations": [("127.0.0.1", open_port), ("127.0.0.1", closed_port)]}
            two.parity["a"] = both | {
                "version_command": print_line("12.5.1\nsecond line"),
                "commands": {"acls": print_line("allow all"), "same": print_line("x")},
                "disks": (Path("/"),),
            }
            two.parity["b"] = both | {
                "version_command": print_line("12.5.2"),
                "commands": {"acls": print_line("allow none"), "same": print_line("x")},
                "disks": (Path("/"),),
                "config": "d" * 64,
            }

        async with pair(change) as two:
            shown = await two.a.ask("parity")
            assert shown["detail"] == ""
            found = {one["item"]: one for one in shown["differences"]}
            wanted = {
                *SAME_MACHINE,
                "software",
                "config",
                "config-on-disk",
                "compared acls",
                f"destination 127.0.0.1:{closed_port}",
            }
            assert wanted <= set(found)
            assert set(found) <= wanted | {"ssh-host-key", "clock-kept"}
            assert (found["software"]["ours"], found["software"]["theirs"]) == ("12.5.1", "12.5.2")
            assert found["software"]["severity"] == "error"
            assert "allow none" not in str(
                shown
            )  # an output may hold secrets: only its digest leaves
            assert found[f"destination 127.0.0.1:{closed_port}"]["severity"] == "warning"
            assert (await two.a.ask("status"))["parity"]["differences"] == shown["differences"]
            (event,) = two.a.sink.named("agent.parity-compared")[-1:]
            assert event.fields["errors"] >= 4
            assert (await two.b.trust.links["a"].report()).version == "12.5.1"
            assert (await two.b.trust.links["a"].report()).config_hash == "c" * 64
            await eventually(lambda: two.a.post.told("parity") == ["open"])
            assert "software" in two.a.post.notices[-1].title
            for line in (
                'parity_differences{kind="software",node="a",severity="error"} 1.0',
                'peer_reachable{direction="outward",node="a",peer="b"} 1.0',
                'connection_item_ok{direction="outward",item="trust",node="a"',
            ):
                await eventually(lambda line=line: _exports(two.a, f"lb_probe_agent_{line}"))


async def test_a_release_is_read_again_after_an_upgrade(pair, tmp_path):
    """R74, R92: a sync right after an upgrade sees the new release, or none."""
    release = tmp_path / "release"
    release.write_text("1\n")

    def change(two):
        two.parity["b"] = {"version_command": ("/bin/cat", str(release))}

    async with pair(change) as two:
        link = two.a.trust.links["b"]
        assert (await link.report()).version == "1"
        release.write_text("2\n")
        part = two.b.parts["parity"]
        part._software_at = -100.0  # some seconds later
        assert (await link.report()).version == "2"
        release.unlink()
        part._software_at = -100.0
        assert (await link.report()).version is None


async def test_a_peer_that_lies_about_its_mode_is_found_out(pair, eventually):
    """A peer that lies about its mode: its page says another word than its agent."""

    says = Mode.PRIMARY

    async def page():
        return says

    def change(two):
        two.parity["a"] = {"peer_page": page}

    async with pair(change) as two:
        found = {}

        async def is_seen():  # b tells its mode once its page says it
            shown = await two.a.ask("parity")
            found.clear()
            found.update(*[one for one in shown["differences"] if one["item"] == "mode"])
            two.b.parts["parity"]._ours = None
            return bool(found)

        await eventually(is_seen)
        assert (found["severity"], found["ours"]) == ("error", "its agent says standby")
        says = None  # nobody answers: that takes nothing back
        assert await is_seen()
        assert not two.a.sink.named("agent.nodes-alike")
        says = Mode.STANDBY
        assert not await is_seen()


async def test_a_difference_of_clocks_is_not_over_by_a_look_that_failed(pair, eventually):
    """R11: one look at the clock may fail while the facts of the peer come through."""
    async with pair() as two:
        parity, trust = two.a.parts["parity"], two.a.trust
        for severity, count in (("error", 1), ("unknown", 1), ("ok", 0)):
            trust.standings["b"].clock = Clock(Offset(40.0, 0.001), severity, "by a test")
            assert len([*parity._clock("b")]) == count
            parity._keep(tuple(parity._clock("b")))


async def test_a_peer_that_falls_silent_keeps_its_differences_on_show(pair):
    async with pair() as two:
        before = (await two.a.ask("parity"))["differences"]
        assert before
        await two.end("b")
        shown = await two.a.ask("parity")
        assert shown["differences"] == before
        assert shown["detail"].startswith("a -> b: found ")


async def test_a_clock_that_says_two_things_is_no_clock(pair, eventually):
    """A peer that lies about its clock: to each question another time, or a time to each asker."""
    async with pair() as two:
        await two.a.trust.look("b")
        assert two.a.trust.standings["b"].clock.severity == "ok"
        wall, began = two.b.clock.wall, two.b.clock.monotonic()
        # A clock that runs five hundred times too fast says another time to each question.
        two.b.clock.wall = lambda: wall() + 500 * (two.b.clock.monotonic() - began)
        await two.a.trust.look("b")
        clock = two.a.trust.standings["b"].clock
        assert (clock.offset, clock.severity) == (None, "error")
        assert re.search("wanted (one clock that runs evenly|a clock that does not)", clock.detail)
        gates = [gate for gate in await two.a.trust.node.may_sync() if gate.id == "clock"]
        assert gates[0].passed is False
        two.b.clock.wall = wall

        async def claim(peer, question):
            told = {"offset_s": 40.0, "bound_s": 0.001}
            return {"outward": None, "takes": [], "clock": told}

        two.b.trust.door._answers["contact"] = claim
        await two.a.trust.look("b")
        clock = two.a.trust.standings["b"].clock
        assert clock.severity == "warning"
        assert "from here and +40.000s from there" in clock.detail


def test_facts_of_a_peer_are_taken_with_care():
    good = {"node": "b", "cpus": 4, "hostname": "x\x1b[31m", "unknown": 1}
    found = read_facts(good, "b")
    assert (found.cpus, found.hostname) == (4, "x\ufffd[31m")
    for bad in (
        {},
        {"node": "c"},
        good | {"cpus": "4"},
        good | {"cpus": 10**400},
        good | {"disks": {"/": True}},
        good | {"mode": "king"},
        good | {"ssh_host_keys": "x"},
        good | {"destinations": {"x": None}},
    ):
        with pytest.raises(ValueError, match="found"):
            read_facts(bad, "b")
    many = read_facts(good | {"destinations": {str(n): "" for n in range(10_000)}}, "b")
    assert len(many.destinations) == 200


async def _exports(agent, text):
    return text in await _metrics(agent)


async def _metrics(agent):
    async with aiohttp.ClientSession() as session:
        started = agent.sink.named("agent.started")[-1]
        async with session.get(f"http://{started.fields['report']}/metrics") as answer:
            return await answer.text()
