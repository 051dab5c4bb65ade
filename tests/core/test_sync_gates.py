"""Each gate of a sync alone refuses, with its id.

R12, R18, R38, R66, R69, R71, R83, R87, R92, R121, R122.
"""

from dataclasses import replace

import pytest

from lb_probe.core.data_lineage import Lineage, begun
from lb_probe.core.model import Gate, Mode
from lb_probe.core.peer_report import PeerReport
from lb_probe.core.sync_gates import GATES, SyncWorld, closed, judge, lineage_of, loss, paste

A_REIGNS = PeerReport(
    node="a",
    mode=Mode.PRIMARY,
    quarantine="",
    version="12.5.1",
    data_reign=100.0,
    data_until=1000.0,
    data_fork=(0.0, 0.0),
    data_suspect="",
    is_syncing=False,
)
GOOD = SyncWorld(
    node="b",
    peer="a",
    source="a",
    addresses=("192.0.2.10",),
    mode=Mode.STANDBY,
    lineage=Lineage(100.0, 900.0),
    report=A_REIGNS,
    version="12.5.1",
)
B_REIGNED = begun(Lineage(100.0, 900.0), 1010.0)


def peer(**changed):
    return {"report": replace(A_REIGNS, **changed)}


def copied(**changed):
    """The peer is a Standby itself, as the main site's Secondary is for a DR site (R38)."""
    return peer(**{"mode": Mode.STANDBY, "last_good_sync": (900.0, 950.0)} | changed)


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"source": "192.0.2.10"},
        {"holds_traffic": False},
        {"lineage": Lineage()},
        {"lineage": Lineage(100.0, 1000.5)},  # its clock was set back, and it is still Primary
        copied(),
    ],
)
def test_a_standby_copies_from_its_active_peer(kind, change):
    """R66, R71, R83; and from a Standby whose own data is good (R38)."""
    world = replace(GOOD, **change)
    assert closed(judge(kind, world)) == ()
    assert loss(world) == ""


# What is wrong, the gate that refuses, a word of what it says it found.
ALONE = [
    ({"mode": Mode.PRIMARY}, "standby", "b is in mode primary"),
    ({"holds_traffic": True}, "no-traffic", "clients are sent to b"),
    ({"holds_traffic": True, "silent_s": 90.0}, "no-traffic", "said 90s ago; it is silent since"),
    ({"running": "run 7 began 13:00Z"}, "alone", "run 7"),
    ({"unrecordable": "disk full"}, "on-record", "disk full"),
    ({"source": "203.0.113.9"}, "known-source", "203.0.113.9"),
    (peer(node="c"), "peer-answers", "c answers in the place of a"),
    (peer(mode=None), "source-has-data", "nothing is known"),
    (peer(quarantine="b says Primary"), "source-has-data", "quarantined: b says Primary"),
    (copied(last_good_sync=None), "source-has-data", "no good sync"),
    (copied(data_suspect="run 3 was cut off"), "source-has-data", "run 3 was cut off"),
    (copied(data_suspect=None), "source-has-data", "nobody says whether its data is whole"),
    (peer(is_syncing=True), "source-at-rest", "being written to by a sync"),
    (peer(is_syncing=None), "source-at-rest", "nobody says"),
    (peer(version="12.5.2"), "same-version", "b has 12.5.1, a has 12.5.2"),
    (peer(version=None), "same-version", "a has no known version"),
    ({"version": "", "version_fault": "exit status 3"}, "same-version", "(exit status 3)"),
    (peer(version="", data_until=1.0e3) | {"version": ""}, "same-version", "no known version"),
    (
        {"lineage": B_REIGNED},
        "not-newer-here",
        "b has newer data (of the time as Primary from 1970-01-01 00:16Z",
    ),
    (peer(data_reign=None), "not-newer-here", "nobody says how old"),
    ({"lineage": Lineage(100.0, 1000.5)} | copied(), "not-newer-here", "newer data"),
]


@pytest.mark.parametrize(("change", "gate", "says"), ALONE)
@pytest.mark.parametrize("kind", GATES)
def test_each_gate_alone_refuses_and_says_what_it_found(kind, change, gate, says):
    refused = closed(judge(kind, replace(GOOD, **change)))
    assert [one.id for one in refused] == [gate]
    assert says in refused[0].found


BY_ITSELF = [
    ({"ha_on": False}, "ha-enabled", "HA is disabled"),
    ({"scheduler_stopped": "the mode was set by hand"}, "scheduler-on", "set by hand"),
    ({"good_by_hand": False}, "by-hand-first", "no manual sync"),
]


@pytest.mark.parametrize(("change", "gate", "says"), BY_ITSELF)
def test_what_keeps_only_the_schedule_back(change, gate, says):
    """R69, R87, R121: an operator may still copy by hand."""
    world = replace(GOOD, **change)
    refused = closed(judge("schedule", world))
    assert [one.id for one in refused] == [gate]
    assert says in refused[0].found
    assert closed(judge("manual", world)) == ()


def test_writes_that_only_this_node_has_are_lost_by_hand_only_and_told():
    """A was Primary, B took over from a copy that is older than A's last writes."""
    taken_over = peer(data_reign=1010.0, data_until=5000.0, data_fork=(100.0, 900.0))
    world = replace(GOOD, lineage=Lineage(100.0, 1000.0), **taken_over)
    assert [g.id for g in closed(judge("schedule", world))] == ["nothing-lost"]
    shut = closed(judge("manual", world))
    assert [g.id for g in shut] == ["loss-accepted"]
    assert closed(shut, ("loss-accepted",)) == ()
    assert closed(judge("manual", replace(world, salvages=True))) == ()
    assert "b wrote as Primary from 1970-01-01 00:15Z until 1970-01-01 00:16Z" in loss(world)
    older = replace(world, lineage=Lineage(50.0, 60.0))
    assert "b wrote as Primary until 1970-01-01 00:01Z at most is not on a" in loss(older)


def test_nothing_is_known_of_a_peer_that_does_not_answer():
    """X22: every gate that asks it is shut, and an override opens none of the two that matter."""
    world = replace(GOOD, report=None, why_not="connection refused")
    refused = closed(judge("manual", world))
    assert [gate.id for gate in refused] == [
        "peer-answers", "source-has-data", "source-at-rest", "same-version", "not-newer-here"
    ]  # fmt: skip
    assert refused[0].found == "connection refused"
    assert loss(world) == ""
    left = closed(judge("manual", world), tuple(gate.id for gate in refused))
    assert [gate.id for gate in left] == ["peer-answers", "same-version"]


def test_every_gate_of_both_tables_is_tried_above():
    names = {gate.id for kind in GATES for gate in judge(kind, GOOD)}
    lost = {"nothing-lost", "loss-accepted"}
    assert names == {gate for _, gate, _ in [*ALONE, *BY_ITSELF]} | lost


def test_a_refusal_names_the_line_that_opens_it_or_helps_instead():
    """X5."""
    shut = closed(judge("manual", replace(GOOD, lineage=B_REIGNED, **peer(is_syncing=True))))
    assert paste("b", shut) == (
        "lb-probe agent sync now --node b --reason '...'"
        " --override source-at-rest --override not-newer-here"
    )
    shut = closed(judge("manual", replace(GOOD, mode=Mode.PRIMARY)))
    assert paste("b", shut) == "lb-probe agent failover mode secondary --node b --reason '...'"
    assert closed((Gate("no-traffic", False, "", "", ""),), ("no-traffic",))


def test_a_report_without_a_lineage_is_an_unknown_one():
    assert lineage_of(PeerReport(node="a")) == Lineage()
    assert lineage_of(A_REIGNS) == Lineage(100.0, 1000.0)
