"""What two nodes must have in common: one fact changed at a time."""

from dataclasses import replace

import pytest

from lb_probe.core.model import Mode
from lb_probe.core.parity import ERROR, KINDS, WARNING, Facts, compare, mode_lie

GIB = 2**30
OURS = Facts(
    node="a",
    hostname="core-a",
    machine="1" * 64,
    os="Debian GNU/Linux 12 x86_64",
    cpus=4,
    memory_bytes=16 * GIB,
    disks={"/var": 100 * GIB},
    agent="1.0",
    software="12.5.1",
    config="c" * 64,
    config_on_disk="c" * 64,
    is_clock_kept=True,
    ssh_host_keys=("SHA256:a",),
    destinations={"smtp:25": "", "dns:53": ""},
    compared={"acls": "d" * 64},
    mode=Mode.PRIMARY,
)
THEIRS = replace(
    OURS,
    node="b",
    hostname="core-b",
    machine="2" * 64,
    ssh_host_keys=("SHA256:b",),
    mode=Mode.STANDBY,
)


def test_two_nodes_that_are_as_they_should_be_do_not_differ():
    assert compare(OURS, THEIRS) == ()
    assert compare(THEIRS, OURS) == ()


@pytest.mark.parametrize(
    ("change", "item", "severity", "shown"),
    [
        ({"memory_bytes": 8 * GIB}, "memory", WARNING, ("16.00 GiB", "8.00 GiB")),
        ({"memory_bytes": None}, "memory", WARNING, ("16.00 GiB", "not told")),
        ({"cpus": 8}, "cpus", WARNING, ("4", "8")),
        ({"os": "other"}, "os", WARNING, ("Debian GNU/Linux 12 x86_64", "other")),
        ({"agent": "1.1"}, "agent", WARNING, ("1.0", "1.1")),
        ({"software": "12.5.2"}, "software", ERROR, ("12.5.1", "12.5.2")),
        ({"software": None}, "software", WARNING, ("12.5.1", "not told")),
        (
            {"config": "e" * 64, "config_on_disk": "e" * 64},
            "config",
            ERROR,
            ("c" * 16, "e" * 16),
        ),
        (
            {"config_on_disk": "e" * 64},
            "config-on-disk",
            WARNING,
            ("applied", "a file that changed since it was read"),
        ),
        ({"hostname": "core-a"}, "hostname", ERROR, ("core-a", "core-a")),
        ({"machine": "1" * 64}, "machine", ERROR, ("1" * 16, "1" * 16)),
        ({"ssh_host_keys": ("SHA256:a",)}, "ssh-host-key", ERROR, ("SHA256:a", "SHA256:a")),
        ({"disks": {"/var": 50 * GIB}}, "disk /var", WARNING, ("100.00 GiB", "50.00 GiB")),
        ({"disks": {}}, "disk /var", WARNING, ("100.00 GiB", "not told")),
        (
            {"destinations": {"smtp:25": "no answer", "dns:53": ""}},
            "destination smtp:25",
            ERROR,
            ("reached", "no answer"),
        ),
        (
            {"destinations": {"dns:53": ""}},
            "destination smtp:25",
            WARNING,
            ("reached", "not asked"),
        ),
        ({"compared": {"acls": "f" * 64}}, "compared acls", ERROR, ("d" * 16, "f" * 16)),
        ({"compared": {"acls": None}}, "compared acls", WARNING, ("d" * 16, "not told")),
        (
            {"is_clock_kept": False},
            "clock-kept",
            WARNING,
            ("kept by a time server", "kept by nobody"),
        ),
        ({"mode": Mode.PRIMARY}, "mode", ERROR, ("Primary", "Primary")),
    ],
)
def test_each_difference_is_named_with_its_severity(change, item, severity, shown):
    """R8, R9, R11, R23, R74, R75, R81."""
    (found,) = compare(OURS, replace(THEIRS, **change))
    assert (found.item, found.severity, (found.ours, found.theirs)) == (item, severity, shown)
    assert found.kind in KINDS
    (turned,) = compare(replace(THEIRS, **change), OURS)
    assert (turned.ours, turned.theirs) == shown[::-1]


def test_errors_come_first_and_what_nobody_tells_is_no_difference():
    theirs = replace(THEIRS, cpus=1, software="0", is_clock_kept=None, memory_bytes=16 * GIB - 1)
    assert [one.severity for one in compare(OURS, theirs)] == [ERROR, WARNING]
    silent = replace(OURS, software=None), replace(THEIRS, software=None)
    assert compare(*silent) == ()


def test_a_destination_that_neither_reaches_is_told_milder():
    """R8: what is asked is whether the two are equal; that both lack it is worth a word."""
    lost = {"smtp:25": "refused", "dns:53": ""}
    found = compare(replace(OURS, destinations=lost), replace(THEIRS, destinations=lost))
    assert [(one.item, one.severity) for one in found] == [("destination smtp:25", WARNING)]


def test_a_peer_that_says_another_mode_than_its_page_is_found_out():
    """A peer that lies about its mode: unknown contradicts nothing, two words do."""
    assert mode_lie(Mode.STANDBY, Mode.STANDBY) is None
    assert mode_lie(None, Mode.PRIMARY) is None
    assert mode_lie(Mode.PRIMARY, None) is None
    assert mode_lie(Mode.PRIMARY, Mode.UNKNOWN) is None
    found = mode_lie(Mode.STANDBY, Mode.PRIMARY)
    assert (found.item, found.severity) == ("mode", ERROR)
    assert found.ours == "its agent says standby"
    assert found.theirs == "its page says primary"
