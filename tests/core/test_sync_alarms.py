"""What an operator has to look at: R16, R17, R18, R24, R92, R121."""

from dataclasses import replace

import pytest

from lb_probe.core.model import Mode
from lb_probe.core.sync_advice import advise
from lb_probe.core.sync_alarms import ALARMS, SyncFacts, raised

H = 3_600
WELL = SyncFacts(mode=Mode.STANDBY, now=100 * H, data_until=99 * H, overdue_s=2 * H)

CASES = [
    ({"suspect": "sync 3 has not ended"}, "data-suspect", "sync 3 has not ended"),
    ({"now": 101 * H + 1}, "sync-overdue", "2h old; wanted at most 2h"),
    (
        {"bad": ("refused", "b has 2, a has 3", ("same-version",))},
        "version-mismatch",
        "b has 2, a has 3",
    ),
    ({"bad": ("failed", "exit status 3", ())}, "sync-failed", "failed: exit status 3"),
    ({"skips": 2}, "sync-overlap", "2 slots were skipped"),
    ({"stopped": "the mode was set by hand"}, "scheduler-stopped", "set by hand"),
    ({"unrecordable": "no space left"}, "sync-unrecordable", "no space left"),
    ({"advice": advise([55 * 60], H)}, "sync-tight", "use 1h 30min or more"),
]


@pytest.mark.parametrize(("change", "alarm", "says"), CASES)
def test_each_alarm_alone_is_raised_with_its_sentence(change, alarm, says):
    found = raised(replace(WELL, **change))
    assert list(found) == [alarm]
    assert says in found[alarm]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"now": 101 * H},  # exactly as old as it may be
        {"now": 900 * H, "mode": Mode.PRIMARY},  # a Primary's data is its own
        {"now": 900 * H, "overdue_s": None},
        {"now": 900 * H, "data_until": 0.0},
        {"skips": 1},
        {"advice": advise([5 * 60], H)},
    ],
)
def test_all_is_well(change):
    assert raised(replace(WELL, **change)) == {}


def test_every_alarm_is_tried_above():
    assert list(ALARMS) == [alarm for _, alarm, _ in CASES]
