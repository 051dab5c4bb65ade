"""Groups whose nodes all serve: the table over every situation, and over every history."""

import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lb_probe.core import active_active as aa
from lb_probe.core import evidence as ev
from lb_probe.core.active_active import (
    COLUMNS,
    CONDITIONS,
    RULES,
    Action,
    Place,
    Pool,
    Room,
    Situation,
    Verdict,
    adopt,
    as_markdown,
    decide,
    fold,
    is_cut_off,
    verdict,
)
from lb_probe.core.evidence import Evidence
from lb_probe.core.model import (
    Automation,
    Change,
    Failed,
    Hold,
    Mode,
    Observation,
    Page,
    Passed,
    Phase,
    Saved,
    Seen,
)
from lb_probe.core.pool_view import PoolView, as_json, explain, reason, set_of, word_of
from lb_probe.core.view import AdapterStatus

SITUATIONS = [Situation(*values) for values in product(*(kind for _, kind in COLUMNS))]
ARMED, BLOCKED, ISOLATED = Automation.ARMED, Automation.BLOCKED, Automation.ISOLATED
POOL = Pool("gw", ("gw-1", "gw-2", "gw-3", "gw-4"), fall=3, rise=2, max_age_s=3.0)
PAGE = Path(__file__).parents[2] / "docs" / "active-active.md"
TABLE = re.compile(r"(?<=<!-- table: )(.*? -->\n)(.*?)(?=<!-- end of table -->)", re.DOTALL)


def where(**wanted):
    return [s for s in SITUATIONS if all(getattr(s, name) is v for name, v in wanted.items())]


def actions(situations):
    return {aa._TABLE[s].action for s in situations}


def seen(node, at, good=True, phase=Phase.CONNECT_REFUSED, page=Page.STATUS):
    outcome = Passed() if good else Failed(phase, "no")
    return Observation(node, page, at, at, outcome)


def evidence_of(now=10.0, **words):
    """Evidence of rows of answers that ended at `now`, as gw_1="ffp": good is `p`."""
    evidence = Evidence(floor=0.0)
    for name, word in words.items():
        for step, letter in enumerate(word, start=1):
            at = now - 0.1 * (len(word) - step)
            observation = seen(name.replace("_", "-"), at, good=letter == "p")
            evidence = fold(evidence, observation, POOL)
    return evidence


def decided(evidence, members=frozenset(POOL.nodes), automation=ARMED, pool=POOL, now=10.0):
    return decide(pool, members, evidence, automation, now)


# ------------------------------------------------------------------ the table
def test_a_node_goes_out_exactly_where_it_fails_is_in_and_there_is_room():
    out = {s for s in SITUATIONS if aa._TABLE[s].action is Action.TAKE_OUT}
    assert out == {Situation(Verdict.FAIL, Place.IN, Room.ENOUGH, ARMED)}


def test_a_node_comes_in_exactly_where_it_is_ok_and_out():
    """R39: it returns automatically; nobody has to resume."""
    into = {s for s in SITUATIONS if aa._TABLE[s].action is Action.PUT_IN}
    assert into == {Situation(Verdict.OK, Place.OUT, room, ARMED) for room in Room}


def test_at_the_floor_nothing_goes_out():
    assert Action.TAKE_OUT not in actions(where(room=Room.AT_FLOOR))


def test_a_node_without_a_verdict_is_left_where_it_is():
    assert actions(where(health=Verdict.UNKNOWN)) == {Action.NONE}


@pytest.mark.parametrize("automation", [BLOCKED, ISOLATED])
def test_no_brake_lets_anything_change(automation):
    """X4, X10, X15."""
    assert actions(where(automation=automation)) == {Action.NONE}


def test_a_brake_changes_only_whether_it_is_done():
    for armed in where(automation=ARMED):
        ids = aa._TABLE[armed].id, aa._TABLE[replace(armed, automation=BLOCKED)].id
        assert ids[0] == ids[1] or ids in (("N3", "N4"), ("N6", "N7"))


def test_the_table_covers_36_situations_with_9_rows():
    assert (len(SITUATIONS), len(RULES), len(aa._TABLE)) == (36, 9, 36)


def test_a_table_with_a_gap_is_refused():
    without = [r for r in RULES if r.id != "N2"]
    with pytest.raises(ValueError, match="no rule covers 4, first"):
        aa._expand(without, CONDITIONS)


def test_a_table_with_overlapping_rows_is_refused():
    with pytest.raises(ValueError, match="rules N1 and N99 cover"):
        aa._expand([*RULES, replace(RULES[0], id="N99")], CONDITIONS)


def test_a_condition_without_a_rank_is_refused():
    with pytest.raises(ValueError, match="not those that are ranked"):
        aa._expand(RULES, CONDITIONS[1:])


# ------------------------------------------------------------------ verdicts
@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("", Verdict.UNKNOWN),
        ("p", Verdict.UNKNOWN),
        ("pp", Verdict.OK),
        ("ppf", Verdict.UNKNOWN),
        ("ppff", Verdict.UNKNOWN),
        ("ppfff", Verdict.FAIL),
        ("fffp", Verdict.UNKNOWN),
        ("fffpp", Verdict.OK),
        ("ppffp", Verdict.OK),  # a blip shorter than `fall` costs nothing
    ],
)
def test_a_verdict_takes_fall_failures_and_rise_passes_in_a_row(word, wanted):
    assert verdict(evidence_of(gw_1=word), POOL, "gw-1", 10.0) is wanted


def test_a_stale_reading_supports_nothing():
    evidence = evidence_of(gw_1="fff")
    assert verdict(evidence, POOL, "gw-1", 13.0) is Verdict.FAIL
    assert verdict(evidence, POOL, "gw-1", 13.1) is Verdict.UNKNOWN
    assert verdict(evidence_of(gw_1="pp"), POOL, "gw-1", 13.1) is Verdict.UNKNOWN


def test_failures_from_before_an_interruption_do_not_count():
    """X19."""
    evidence = ev.raise_floor(evidence_of(gw_1="fff"), 10.0)
    assert verdict(evidence, POOL, "gw-1", 10.0) is Verdict.UNKNOWN
    for at in (10.1, 10.2, 10.3):
        evidence = fold(evidence, seen("gw-1", at, good=False), POOL)
    assert verdict(evidence, POOL, "gw-1", 10.3) is Verdict.FAIL


def test_what_this_machine_cannot_do_takes_nobody_out():
    """X15."""
    evidence = evidence_of(gw_1="pp")
    for at in (10.1, 10.2, 10.3):
        lacking = replace(seen("gw-1", at, good=False), outcome=Failed(Phase.LOCAL, "no socket"))
        evidence = fold(evidence, lacking, POOL)
    assert verdict(evidence, POOL, "gw-1", 10.4) is Verdict.OK


def test_only_the_status_page_counts():
    evidence = evidence_of(gw_1="pp")
    strange = replace(seen("gw-1", 10.0, page=Page.HASTATUS), outcome=Passed(Mode.PRIMARY))
    assert fold(evidence, strange, POOL) is evidence


def test_a_group_is_cut_off_when_every_node_fails_in_the_network():
    assert not is_cut_off(Evidence(0.0), POOL)
    refused = {name.replace("-", "_"): "f" for name in POOL.nodes}
    evidence = evidence_of(**refused)
    assert is_cut_off(evidence, POOL)
    answered = seen("gw-1", 10.5, good=False, phase=Phase.STATUS)
    assert not is_cut_off(fold(evidence, answered, POOL), POOL)
    assert not is_cut_off(fold(evidence, seen("gw-1", 10.5), POOL), POOL)


# ------------------------------------------------------------------ decisions
@pytest.mark.parametrize(
    ("nodes", "percent", "floor"),
    [(1, 0, 1), (2, 50, 1), (3, 50, 2), (4, 50, 2), (4, 0, 1), (4, 51, 3), (4, 100, 4), (3, 33, 1)],
)
def test_the_floor_is_the_share_rounded_up_and_at_least_one(nodes, percent, floor):
    names = tuple(f"n{i}" for i in range(nodes))
    assert Pool("gw", names, panic_percent=percent).floor == floor


def test_of_nodes_that_fail_those_that_failed_first_go_out_until_the_floor():
    evidence = evidence_of(gw_1="fff", gw_2="ffff", gw_3="pp", gw_4="fffff")
    found = decided(evidence)
    assert found.members == {"gw-1", "gw-3"}
    assert (found.condition, found.rule) == ("panic", "N5")
    assert [n.rule.id for n in found.nodes] == ["N5", "N3", "N1", "N3"]


def test_a_node_that_returns_makes_room_for_one_that_fails_in_the_same_decision():
    evidence = evidence_of(gw_1="fff", gw_2="fff", gw_3="pp", gw_4="fff")
    found = decided(evidence, frozenset({"gw-1", "gw-2"}))
    assert found.members == {"gw-2", "gw-3"}


def test_in_a_panic_those_that_are_out_stay_out():
    evidence = evidence_of(gw_1="fff", gw_2="fff", gw_3="fff", gw_4="fff")
    found = decided(evidence, frozenset({"gw-1", "gw-2"}))
    assert (found.members, found.condition) == ({"gw-1", "gw-2"}, "panic")


def test_the_last_node_stays_in_even_without_a_threshold():
    pool = replace(POOL, panic_percent=0)
    evidence = evidence_of(gw_1="fff", gw_2="ffff", gw_3="ffff", gw_4="ffff")
    assert decided(evidence, pool=pool).members == {"gw-1"}


def test_under_a_brake_it_is_said_what_would_be_done():
    evidence = evidence_of(gw_1="fff", gw_2="ffff", gw_3="pp", gw_4="pp")
    found = decided(evidence, frozenset({"gw-1", "gw-2", "gw-3"}), BLOCKED)
    assert found.members == {"gw-1", "gw-2", "gw-3"}
    assert found.wished == {"gw-3", "gw-4"}
    assert found.condition == "out-blocked"


def test_an_isolated_prober_wishes_nothing():
    found = decided(evidence_of(gw_1="fff", gw_2="pp"), frozenset({"gw-1"}), ISOLATED)
    assert (found.wished, found.condition) == ({"gw-1"}, "prober-isolated")


def test_a_node_that_is_out_weighs_more_than_one_that_is_doubtful():
    evidence = evidence_of(gw_1="fff", gw_2="pp", gw_3="pp", gw_4="ppf")
    found = decided(evidence, frozenset({"gw-2", "gw-3", "gw-4"}))
    assert found.condition == "some-out"


# ------------------------------------------------------------------ start
def test_a_start_takes_over_what_the_load_balancers_agree_on():
    start = adopt(POOL, {"edge-1": {"gw-1", "gw-2"}, "edge-2": {"gw-2", "gw-1"}})
    assert (start.members, start.disputed) == ({"gw-1", "gw-2"}, frozenset())


def test_nodes_on_which_they_differ_are_in_dispute():
    start = adopt(POOL, {"edge-1": {"gw-1", "gw-2"}, "edge-2": {"gw-2"}, "edge-3": None})
    assert (start.members, start.disputed) == ({"gw-1", "gw-2"}, {"gw-1"})
    assert start.reason == "the load balancers differ about gw-1"


def test_without_one_that_can_be_read_every_node_is_in_dispute():
    start = adopt(POOL, {"edge-1": None})
    assert start.members == start.disputed == set(POOL.nodes)


def test_without_load_balancers_every_node_is_in():
    assert adopt(POOL, {}).members == set(POOL.nodes)


def test_a_node_that_is_not_in_the_file_is_not_taken_over():
    assert adopt(POOL, {"edge-1": {"gw-1", "old"}}).members == {"gw-1"}


# ------------------------------------------------------------------ what is shown
def view_of(evidence, members=frozenset(POOL.nodes), automation=ARMED, blocked=(), **changes):
    """A view right before the decision in it is carried out."""
    seen_there = Seen(None, tuple(sorted(members)), usable=True)
    adapter = AdapterStatus("edge", "model", word_of(members), seen_there, False, True, "")
    view = PoolView(
        pool=POOL,
        saved=Saved(generation=4),
        members=members,
        disputed=frozenset(),
        decision=decide(POOL, members, evidence, automation, 10.0, blocked),
        evidence=evidence,
        adapters=(adapter,),
        last_change=None,
        now=10.0,
    )
    return replace(view, **changes)


def test_a_certificate_that_expires_soon_is_shown():
    last = Observation("gw-2", Page.STATUS, 9.9, 9.95, Passed(), certificate_until=86_400.0 * 5)
    view = view_of(fold(evidence_of(gw_1="pp"), last, POOL), wall=0.0)

    shown = as_json(view)
    (line,) = shown["warnings"]
    assert line.startswith("gw-2: its certificate expires in 5 days (1970-01-06T")
    assert line in explain(view)
    assert [node["certificate_until"] for node in shown["nodes"][:2]] == [
        None,
        "1970-01-06T00:00:00Z",
    ]
    assert as_json(replace(view, wall=None))["warnings"] == []


def test_json_has_the_keys_of_the_other_policy_and_says_who_is_in():
    hold = Hold("ops", "patch day", 60.0)
    change = Change("take-out", "gw-1+gw-2", "gw-2", 0.0, "lb-probe", "gw-1 fails", "N3")
    members = frozenset({"gw-2", "gw-3", "gw-4"})
    evidence = evidence_of(gw_1="pp", gw_2="pp")
    saved = Saved(hold=hold, acked="ops: seen", generation=7)
    shown = as_json(view_of(evidence, members, BLOCKED, ("hold",), saved=saved, last_change=change))
    assert shown["in"] == ["gw-2", "gw-3", "gw-4"]
    assert (shown["name"], shown["policy"], shown["act"]) == ("gw", "active-active", True)
    assert (shown["assigned"], shown["latched"], shown["roles_swapped"]) == (None, False, False)
    assert (shown["condition"], shown["rule"], shown["blocked"]) == ("in-blocked", "N7", ["hold"])
    assert (shown["generation"], shown["acked"], shown["panic_threshold"]) == (7, "ops: seen", 50)
    assert shown["hold"]["until"] == "1970-01-01T00:01:00Z"
    assert shown["last_change"]["kind"] == "take-out"
    first = shown["nodes"][0]
    assert (first["name"], first["in"], first["role"], first["mode"]) == (
        "gw-1",
        False,
        "member",
        "unknown",
    )
    assert first["serving"] == "ok"
    assert first["why"] == "serves again, stays out: hold; 2 passed in a row, last 0.0s ago"
    assert first["probes"]["status"]["result"] == "ok"
    assert shown["adapters"] == [
        {
            "name": "edge",
            "type": "model",
            "wanted": ["gw-2", "gw-3", "gw-4"],
            "seen": ["gw-2", "gw-3", "gw-4"],
            "usable": True,
            "in_sync": True,
            "foreign_writer": False,
            "detail": "",
        }
    ]


def test_json_of_an_adapter_that_nobody_read_says_null():
    adapter = AdapterStatus("edge", "model", None, None, True, False, "not read yet")
    shown = as_json(view_of(Evidence(0.0), adapters=(adapter,)))["adapters"][0]
    assert (shown["wanted"], shown["seen"], shown["usable"]) == (None, None, None)


SENTENCES = {
    "all-in": ({}, "every node is in and serves"),
    "confirming": ({"gw_2": "ppf"}, "every node is in; no verdict yet on gw-2"),
    "some-out": ({"gw_2": "fff"}, "in: gw-1, gw-3, gw-4; out: gw-2"),
    "panic": (
        {"gw_1": "fff", "gw_2": "fff", "gw_3": "fff"},
        "fails and stays in: gw-1, gw-3; at least 2 of 4 nodes stay in",
    ),
    "out-blocked": ({"gw_2": "fff"}, "fails and stays in: gw-2; blocked by hold"),
    "in-blocked": ({}, "serves again and stays out: gw-2; blocked by hold"),
    "prober-isolated": ({}, "nothing answers at all: it is us, nothing changes"),
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_every_condition_has_a_sentence(condition):
    words, wanted = SENTENCES[condition]
    good = {name.replace("-", "_"): "pp" for name in POOL.nodes}
    is_out = condition in ("some-out", "in-blocked")
    members = frozenset(POOL.nodes) - ({"gw-2"} if is_out else set())
    if condition == "panic":
        members -= {"gw-2", "gw-4"}
        words = {**words, "gw_4": "fff"}
    braked = {"out-blocked": BLOCKED, "in-blocked": BLOCKED, "prober-isolated": ISOLATED}
    automation = braked.get(condition, ARMED)
    blocked = ("hold",) if automation is BLOCKED else ()
    view = view_of(evidence_of(**(good | words)), members, automation, blocked)
    assert view.condition == condition
    assert reason(view) == wanted


@pytest.mark.parametrize("condition", CONDITIONS)
def test_every_condition_is_explained_with_the_next_step(condition):
    words, _ = SENTENCES[condition]
    good = {name.replace("-", "_"): "pp" for name in POOL.nodes}
    members = frozenset(POOL.nodes) - (
        {"gw-2"} if condition in ("some-out", "in-blocked") else set()
    )
    if condition == "panic":
        members -= {"gw-2", "gw-4"}
        words = {**words, "gw_4": "fff"}
    braked = {"out-blocked": BLOCKED, "in-blocked": BLOCKED, "prober-isolated": ISOLATED}
    automation = braked.get(condition, ARMED)
    blocked = ("hold",) if automation is BLOCKED else ()
    text = explain(view_of(evidence_of(**(good | words)), members, automation, blocked))
    assert text.startswith(f"gw: {condition}. Traffic is on {', '.join(sorted(members))}.\n")
    next_steps = {
        "all-in": "nothing",
        "confirming": "wait some seconds",
        "some-out": "it comes back by itself after 2 good probes",
        "out-blocked": "lb-probe release gw --reason",
        "in-blocked": "until then what serves again has none",
        "panic": "lb-probe probe gw/NODE",
        "prober-isolated": "the prober's network",
    }
    assert next_steps[condition] in text.splitlines()[2]
    assert "at least 2 of 4 stay in" in text


def test_load_balancers_and_a_hold_are_explained():
    view = view_of(evidence_of(gw_1="pp"), members=frozenset({"gw-1", "gw-2"}))
    mine = view.adapters[0]
    odd = (
        mine,
        replace(mine, name="late", seen=None, in_sync=False, detail="timed out"),
        replace(mine, name="theirs", yielded=True, in_sync=False),
        replace(mine, name="quiet", wanted=None, in_sync=False),
    )
    saved = Saved(hold=Hold("ops", "patch day", 60.0, hands_off=True))
    text = explain(replace(view, adapters=odd, saved=saved))
    for line in (
        "  edge: wanted gw-1, gw-2, seen gw-1, gw-2, in sync.",
        "  late: wanted gw-1, gw-2, seen unreadable, NOT in sync. timed out",
        "  theirs: wanted gw-1, gw-2, seen gw-1, gw-2, foreign-writer: republish.",
        "  quiet: wanted none, seen gw-1, gw-2, nothing is written.",
        "Hold by ops until 1970-01-01T00:01:00Z, hands off: nothing is written: patch day",
    ):
        assert line in text.splitlines()
    assert "find who else writes to theirs, then: lb-probe republish gw" in text
    alone = explain(replace(view, adapters=()))
    assert "  none: decisions are shown only" in alone.splitlines()
    gentle = replace(saved, hold=Hold("ops", "patch day", 60.0))
    assert "00:01:00Z: patch day" in explain(replace(view, saved=gentle))


def test_a_dispute_is_told():
    view = view_of(Evidence(0.0), disputed=frozenset({"gw-2"}))
    assert "nothing is published before gw-2 is judged" in reason(view)


def test_why_tells_what_the_page_said():
    evidence = evidence_of(gw_1="fff", gw_2="pp")
    shown = as_json(view_of(evidence))["nodes"]
    assert shown[0]["why"] == (
        "fails: is taken out; 3 failed in a row, last 0.0s ago in phase connect-refused: no"
    )
    assert shown[1]["why"] == "serves"
    assert shown[2]["why"] == "no verdict: stays as it is; not probed yet"


def test_properties_of_a_view_are_those_of_its_group():
    view = view_of(evidence_of(gw_1="pp"))
    assert (view.name, view.policy, view.act) == ("gw", "active-active", True)
    assert (view.condition, view.hold, view.generation) == ("confirming", None, 4)


def test_a_set_is_one_word_and_back():
    assert set_of(word_of(frozenset({"b", "a"}))) == {"a", "b"}
    assert word_of(frozenset()) is None


# ------------------------------------------------------------------ the page of documentation
def test_the_page_shows_the_table_that_decides(request):
    page = PAGE.read_text()
    assert TABLE.search(page), "the markers around the table are gone"
    with_table = TABLE.sub(lambda found: found[1] + as_markdown(), page)
    if request.config.getoption("--rewrite"):
        PAGE.write_text(with_table)
    assert with_table == PAGE.read_text()


def test_every_condition_has_a_paragraph_that_says_what_to_do():
    told = re.findall(r"^### (.+)\n\n(.+)", PAGE.read_text(), re.MULTILINE)
    assert sorted(name for name, _ in told) == sorted(CONDITIONS)


# ------------------------------------------------------------------ any history
TICK = 0.25


class AnyHistory(RuleBasedStateMachine):
    """A prober that lives through anything; it keeps its own short memory and compares."""

    @initialize(
        count=st.integers(1, 5),
        percent=st.sampled_from([0, 1, 34, 50, 67, 100]),
        fall=st.integers(1, 3),
        rise=st.integers(1, 3),
        out=st.sets(st.integers(0, 4), max_size=4),
    )
    def starts(self, count, percent, fall, rise, out):
        names = tuple(f"n{i}" for i in range(count))
        self.pool = Pool("gw", names, fall=fall, rise=rise, max_age_s=2.0, panic_percent=percent)
        balancer = {name for i, name in enumerate(names) if i not in out}
        self.members = adopt(self.pool, {"edge": balancer}).members
        self.now = 0.0
        self.restarts()

    def restarts(self):
        self.evidence = Evidence(floor=self.now)
        self.is_held = self.is_isolated = False
        self.since = self.now  # the last interruption
        self.answers = {name: [] for name in self.pool.nodes}

    def row(self, node, good):
        """How many of the latest answers of this node were all `good`, and fresh at the end."""
        rows = self.answers[node]
        count = 0
        for at, said in reversed(rows):
            if said is not good or (not good and at < self.since):
                break
            count += 1
        is_fresh = bool(rows) and self.now - rows[-1][0] <= self.pool.max_age_s
        return count if is_fresh else 0

    def decides(self):
        automation = BLOCKED if self.is_held else ARMED
        automation = ISOLATED if self.is_isolated else automation
        before = self.members
        found = decide(self.pool, before, self.evidence, automation, self.now)
        self.members = found.members
        if self.is_held or self.is_isolated:
            assert self.members == before, "a brake freezes"
            return
        for node in before - self.members:
            event("taken out")
            assert self.row(node, False) >= self.pool.fall
            assert len(self.members) >= self.pool.floor, "never below the threshold"
        for node in self.members - before:
            event("put in")
            assert self.row(node, True) >= 1
        if before:
            assert self.members, "never the last one"
        for node in self.pool.nodes:
            if self.row(node, True) >= self.pool.rise:
                assert node in self.members, "every healthy node is in"
        if found.condition == "panic":
            event("panic")
            assert len(self.members) <= self.pool.floor

    @rule(node=st.integers(0, 4), good=st.booleans(), times=st.integers(1, 4))
    def is_probed(self, node, good, times):
        name = self.pool.nodes[node % len(self.pool.nodes)]
        for _ in range(times):
            self.now += TICK / 4
            self.answers[name].append((self.now, good))
            self.evidence = fold(self.evidence, seen(name, self.now, good), self.pool)
            self.decides()

    @rule(ticks=st.integers(1, 12))
    def time_passes(self, ticks):
        self.now += TICK * ticks
        self.decides()

    @rule()
    def everything_fails(self):
        for i in range(len(self.pool.nodes)):
            self.is_probed(i, False, 4)

    @rule()
    def hold_or_release(self):
        if self.is_held:
            self.interrupted()
        self.is_held = not self.is_held
        self.decides()

    @rule()
    def cut_or_mended(self):
        if self.is_isolated:
            self.interrupted()
        self.is_isolated = not self.is_isolated
        self.decides()

    @rule()
    def interrupted(self):
        self.since = self.now
        self.evidence = ev.raise_floor(self.evidence, self.now)
        self.decides()

    @rule()
    def dies_and_starts_again(self):
        self.members = adopt(self.pool, {"edge": set(self.members)}).members
        self.restarts()

    @invariant()
    def only_known_nodes_are_in(self):
        assert self.members <= set(self.pool.nodes)


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(deadline=None, max_examples=150, stateful_step_count=40)
