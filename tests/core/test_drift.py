"""When a load balancer is corrected, and when somebody else writes there: X2, X21."""

from lb_probe.core.drift import Watch, drifted, in_sync, yielded


def correct(watch, *times, run="run-1"):
    """Drift at each of these moments, repaired in between."""
    for at in times:
        watch = in_sync(drifted(watch, run, at), run)
    return watch


def test_two_corrections_within_a_minute_are_made():
    assert not correct(in_sync(Watch(), "run-1"), 0, 10).yielded


def test_the_third_drift_within_a_minute_yields():
    assert correct(in_sync(Watch(), "run-1"), 0, 30, 59.9).yielded


def test_drift_older_than_a_minute_is_forgotten():
    watch = correct(in_sync(Watch(), "run-1"), 0, 30, 60)
    assert not watch.yielded
    assert watch.drifts == (30, 60)


def test_a_yield_does_not_end_by_waiting():
    watch = correct(in_sync(Watch(), "run-1"), 0, 1, 2)
    assert drifted(watch, "run-1", 1000).yielded


def test_a_restart_is_no_foreign_hand_however_often():
    watch = in_sync(Watch(), "run-0")
    for number in range(1, 20):
        watch = correct(watch, number, run=f"run-{number}")
    assert (watch.yielded, watch.drifts) == (False, ())


def test_a_repair_that_does_not_take_is_one_drift():
    """Publications that cannot be confirmed are retried for ever; nobody else wrote."""
    watch = in_sync(Watch(), "run-1")
    for at in range(20):
        watch = drifted(watch, "run-1", at)
    assert (watch.yielded, watch.drifts) == (False, (0,))


def test_a_restart_whose_repair_does_not_take_is_no_drift():
    watch = drifted(in_sync(Watch(), "run-1"), "run-2", 0)
    assert drifted(watch, "run-2", 1).drifts == ()


def test_what_somebody_else_signed_is_yielded_to_at_once():
    assert yielded(Watch()).yielded
