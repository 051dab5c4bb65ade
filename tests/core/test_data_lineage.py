"""What may be written over: R121, R122, and the stories of facts 7 and 9."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lb_probe.core.data_lineage import UNKNOWN, Lineage, Order, begun, compare, ended

A_REIGNS = Lineage(reign=100, until=1000)  # Primary since 100; it is 1000 now
B_COPIED = Lineage(reign=100, until=900)


def order(here, there):
    return compare(here, there).order


def test_a_copy_may_be_renewed_and_its_source_may_not_be_written_over_by_it():
    assert compare(B_COPIED, A_REIGNS).lost is None
    assert order(B_COPIED, A_REIGNS) is Order.OLDER
    assert order(A_REIGNS, B_COPIED) is Order.NEWER


def test_two_equal_copies_may_be_copied_either_way():
    assert compare(B_COPIED, B_COPIED) == compare(A_REIGNS, A_REIGNS)
    assert order(B_COPIED, B_COPIED) is Order.OLDER


def test_a_primary_has_all_of_its_own_reign_though_its_clock_was_set_back():
    set_back = Lineage(reign=100, until=200)
    assert order(B_COPIED, set_back) is Order.NEWER
    assert compare(B_COPIED, set_back, there_reigns=True).order is Order.OLDER


def test_a_new_node_takes_any_copy_and_gives_none():
    assert order(UNKNOWN, B_COPIED) is Order.OLDER
    assert order(B_COPIED, UNKNOWN) is Order.UNKNOWN
    assert order(UNKNOWN, UNKNOWN) is Order.UNKNOWN


def test_the_old_primary_may_be_written_over_and_what_is_lost_is_told():
    """The ordinary way back (guide line 60): the loss is what A wrote after B's last sync."""
    b_reigns = begun(B_COPIED, 1010)
    found = compare(A_REIGNS, b_reigns)
    assert (found.order, found.lost) == (Order.OLDER, (900, 1000))


def test_the_promoted_node_made_standby_first_is_not_written_over_by_the_old_primary():
    """Fact 7: nothing in the guide keeps an operator from this."""
    b_was_primary = ended(begun(B_COPIED, 1010), 2000)
    a_is_primary_still = Lineage(reign=100, until=3000)
    assert order(b_was_primary, a_is_primary_still) is Order.NEWER


def test_the_swap_back_is_allowed_once_the_data_is_there():
    """C1 of the runbook: quiesce at 2000, copy, swap, and the schedule goes on."""
    b = begun(B_COPIED, 1010)
    a = Lineage(b.reign, 2005, b.fork_reign, b.fork_until)  # copied from B at 2005
    b = ended(b, 2000)  # its clients were turned away at 2000
    a = begun(a, 2100)
    assert compare(b, a).lost is None
    assert order(b, a) is Order.OLDER


def test_the_swap_back_without_quiescing_tells_what_was_written_meanwhile():
    b = begun(B_COPIED, 1010)
    a = begun(Lineage(b.reign, 2005), 2100)
    assert compare(ended(b, 2050), a).lost == (2005, 2050)


def test_what_a_reign_began_from_is_unknown_when_another_came_between():
    b = ended(begun(B_COPIED, 1010), 2000)
    c = begun(begun(Lineage(50, 60), 3000), 4000)
    assert compare(b, c).lost == (0.0, 2000)


@given(st.floats(0, 1e10), st.floats(0, 1e10))
def test_a_reign_is_named_later_than_the_one_it_began_from_whatever_the_clock_says(was, now):
    before = Lineage(was, was)
    after = begun(before, now)
    assert after.reign > before.reign
    assert order(before, after) is (Order.OLDER)
    assert ended(after, now - 1e9).until >= after.reign


class Pair(RuleBasedStateMachine):
    """Two nodes with wrong clocks; every write is counted, and none may vanish unsaid."""

    def __init__(self):
        super().__init__()
        self.now = 1e6
        self.skew = {"a": 0.0, "b": 500.0}
        self.lineage = {"a": Lineage(1.0, 1.0), "b": UNKNOWN}
        self.writes = {"a": set(), "b": set()}
        self.reigns = {"a"}
        self.count = 0

    def clock(self, node):
        return self.now + self.skew[node]

    def says(self, node):
        return (
            ended(self.lineage[node], self.clock(node))
            if node in self.reigns
            else (self.lineage[node])
        )

    @rule(seconds=st.floats(1, 5000))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(node=st.sampled_from("ab"), to=st.floats(-3000, 3000))
    def a_clock_is_set(self, node, to):
        if node not in self.reigns:  # a reign measured by a clock that goes back has no end
            self.skew[node] = to

    @rule(node=st.sampled_from("ab"))
    def a_client_writes(self, node):
        if node in self.reigns:
            self.count += 1
            self.writes[node].add(self.count)
            self.now += 1

    @rule(node=st.sampled_from("ab"))
    def is_promoted(self, node):
        if node not in self.reigns:
            self.lineage[node] = begun(self.lineage[node], self.clock(node))
            self.reigns.add(node)
            self.now += 1

    @rule(node=st.sampled_from("ab"))
    def is_demoted(self, node):
        if node in self.reigns:
            self.lineage[node] = self.says(node)
            self.reigns.discard(node)
            self.now += 1

    @precondition(lambda self: len(self.reigns) < 2)
    @rule(node=st.sampled_from("ab"))
    def copies(self, node):
        other = "b" if node == "a" else "a"
        here, there = self.lineage[node], self.says(other)
        if node in self.reigns:
            return
        found = compare(here, there, there_reigns=other in self.reigns)
        if found.order is not Order.OLDER:
            return
        gone = self.writes[node] - self.writes[other]
        assert not gone or found.lost is not None, (here, there, gone)
        self.lineage[node], self.writes[node] = there, set(self.writes[other])
        self.now += 1

    @invariant()
    def a_node_never_contains_what_its_lineage_does_not_know(self):
        for node in "ab":
            assert not self.writes[node] or self.lineage[node].is_known


TestPair = Pair.TestCase
TestPair.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
