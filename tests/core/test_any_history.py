"""Whatever happens in whatever order: the rules that no history may break.

The machine plays nodes, load balancer, operators and restarts against the pure core: `evidence`,
`failover`, `acts` and `start`. It keeps its own short memory of what really happened and compares.
"""

from dataclasses import replace

from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lb_probe.core import acts
from lb_probe.core import evidence as ev
from lb_probe.core.evidence import Evidence
from lb_probe.core.failover import decide
from lb_probe.core.model import (
    Action,
    Automation,
    Failed,
    Group,
    Mode,
    Node,
    Observation,
    Page,
    Passed,
    Phase,
    Role,
    Saved,
    Seen,
    Traffic,
)
from lb_probe.core.resume import AdapterView, World, judge
from lb_probe.core.start import begin

NODES = (
    Node("a", Role.PRIMARY),
    Node("b", Role.SECONDARY, candidate=True),
    Node("dr", Role.SECONDARY),
)
NAMES = st.sampled_from([node.name for node in NODES])
TICK = 0.25
ENDS_AN_INCIDENT = {"resume", "swap-roles"}
BRINGS_HOME = {"resume", "swap-roles", "accept"}  # and nothing else, ever


class AnyHistory(RuleBasedStateMachine):
    """A prober that lives through anything."""

    @initialize(act=st.booleans())
    def starts(self, act):
        self.file = Group("epmm", NODES, act=act, adapters=("edge",), confirm_s=1.0)
        self.saved = Saved()
        self.evidence = Evidence(0.0)
        self.now = 0.0
        self.is_isolated = False
        self.load_balancer = "a"
        self.answers = {}  # the latest answer of each page, and when it was asked
        self.automatic_since_armed = 0
        self.restarts()

    @property
    def group(self):
        return self.file.with_roles(self.saved.roles)

    # -------------------------------------------------------------- the glue of the controller
    def takes(self, state):
        before, at_home = self.saved, self.group.primary
        kind = state.last_change.kind
        was_moved = before.assigned not in (None, at_home)
        self.saved = state
        assert state.generation == before.generation + 1
        if was_moved and state.assigned == self.group.primary:
            assert kind in BRINGS_HOME, kind
        if before.latched and not state.latched:
            assert kind in ENDS_AN_INCIDENT, kind
        if kind in ENDS_AN_INCIDENT:
            self.automatic_since_armed = 0
        if state.assigned != before.assigned or state.roles != before.roles:
            self.evidence = ev.raise_floor(self.evidence, self.now)
        if before.hold is not None and state.hold is None:
            self.evidence = ev.raise_floor(self.evidence, self.now)
        if self.group.act:
            self.load_balancer = state.assigned or self.load_balancer

    def decides(self):
        brakes = self.saved.hold is not None or not self.group.act or self.saved.latched
        automation = Automation.BLOCKED if brakes else Automation.ARMED
        automation = Automation.ISOLATED if self.is_isolated else automation
        found = ev.situation(self.evidence, self.group, self.saved.assigned, automation, self.now)
        decision = decide(found)
        if decision.action is Action.FAIL_OVER:
            self.moves_by_itself(decision)

    def moves_by_itself(self, decision):
        event("moved by itself")
        assert self.saved.hold is None, "X4"
        assert self.group.act, "X10"
        assert not self.is_isolated, "X15"
        assert self.automatic_since_armed == 0, "X16"
        assert self.saved.assigned == self.group.primary, "X1"
        outcome, asked_at = self.answers[self.group.candidate, Page.HASTATUS]
        assert outcome == Passed(Mode.STANDBY), "X22"
        assert self.now - asked_at <= self.group.max_age_s, "X19"
        assert isinstance(self.answers[self.group.primary, Page.STATUS][0], Failed), "R52"
        self.automatic_since_armed += 1
        state = acts.fail_over(
            self.saved,
            self.group.candidate,
            at_wall=self.now,
            rule=decision.rule,
            condition=decision.condition,
            why=(),
        )
        assert state.assigned != "dr" or self.group.candidate == "dr", "R34"
        self.takes(state)

    def probes(self, node, page, outcome, ticks=1):
        started, self.now = self.now, self.now + ticks * TICK
        self.answers[node, page] = (outcome, started)
        watched = ev.watched(self.group, self.saved.assigned)
        seen = Observation(node, page, started, self.now, outcome)
        self.evidence = ev.fold(self.evidence, seen, self.group, watched)
        self.decides()

    # -------------------------------------------------------------- what happens
    @rule(
        node=NAMES,
        good=st.booleans(),
        phase=st.sampled_from([Phase.CONNECT_REFUSED, Phase.TIMEOUT, Phase.STATUS]),
        ticks=st.integers(0, 4),
    )
    def status_is_probed(self, node, good, phase, ticks):
        self.probes(node, Page.STATUS, Passed() if good else Failed(phase, "no"), ticks)

    @rule(node=NAMES, mode=st.sampled_from([*Mode, None]), ticks=st.integers(0, 4))
    def hastatus_is_probed(self, node, mode, ticks):
        outcome = Failed(Phase.TIMEOUT, "no") if mode is None else Passed(mode)
        self.probes(node, Page.HASTATUS, outcome, ticks)

    @rule(
        rounds=st.integers(1, 8),
        primary=st.sampled_from(["ok", "fails"]),
        says=st.sampled_from([Mode.STANDBY, Mode.STANDBY, Mode.STANDBY, Mode.PRIMARY, None]),
    )
    def time_passes_as_it_mostly_does(self, rounds, primary, says):
        home, second = self.group.primary, self.group.candidate
        silent = Failed(Phase.CONNECT_REFUSED, "no")
        for _ in range(rounds):
            self.probes(home, Page.STATUS, Passed() if primary == "ok" else silent)
            self.probes(second, Page.HASTATUS, Passed(says) if says else silent)

    @rule(ticks=st.integers(1, 40))
    def nothing_is_heard(self, ticks):
        self.now += ticks * TICK
        self.decides()

    @rule()
    def loop_stalls_or_clock_jumps(self):
        self.evidence = ev.raise_floor(self.evidence, self.now)
        self.decides()

    @rule()
    def own_link_is_cut_or_comes_back(self):
        self.is_isolated = not self.is_isolated
        if not self.is_isolated:
            self.evidence = ev.raise_floor(self.evidence, self.now)
        self.decides()

    @rule(node=NAMES)
    def a_hand_writes_to_the_load_balancer(self, node):
        self.load_balancer = node

    @rule()
    def restarts(self):
        """Evidence is lost; what was saved and what the load balancer says is all there is."""
        self.evidence = Evidence(floor=self.now)
        confirmed = {"edge": self.saved.generation}
        seen = {"edge": Seen(self.load_balancer)}
        found = begin(self.group, replace(self.saved, confirmed=confirmed), seen)
        if found.kind == "adopt":
            latched = found.latched
            state = acts.by_itself(self.saved, "adopt", found.node, latched, self.now, found.reason)
            self.takes(state)
        assert found.node == self.saved.assigned
        self.decides()

    # -------------------------------------------------------------- what operators say
    @rule(
        verb=st.sampled_from(sorted(acts.VERBS)),
        to=NAMES,
        is_bold=st.booleans(),
    )
    def operator_says(self, verb, to, is_bold):
        """A bold operator overrides and attests every gate there is."""
        request = acts.Request(
            verb,
            "ops",
            "because",
            self.now,
            to=to if verb == "failover" else None,
            until_wall=self.now + 60,
        )
        world = World(
            group=self.group,
            saved=self.saved,
            evidence=self.evidence,
            adapters=(AdapterView("edge", Seen(self.load_balancer)),),
            target=acts.target_of(request, self.group, self.saved.assigned),
            now=self.now,
        )
        if is_bold:
            ids = frozenset(gate.id for gate in judge(verb, world))
            request = replace(request, override=ids, attest=dict.fromkeys(ids, "my word"))
        plan = acts.plan(request, world)
        if not plan.closed and plan.saved is not None:
            event(f"said {verb}")
            self.takes(plan.saved)
        self.decides()

    @precondition(lambda self: self.saved.hold is not None)
    @rule()
    def hold_lapses(self):
        self.takes(acts.lapse_hold(self.saved, self.now))
        self.decides()

    # -------------------------------------------------------------- what always holds
    @invariant()
    def at_most_one_automatic_move_per_incident(self):
        """X16."""
        assert self.automatic_since_armed <= 1

    @invariant()
    def traffic_off_the_primary_is_always_latched(self):
        """X1: only a latched group is safe from an automatic way back or on."""
        if ev.traffic(self.group, self.saved.assigned) is Traffic.MOVED:
            assert self.saved.latched

    @invariant()
    def one_primary_and_one_candidate_stand_apart(self):
        """X3."""
        assert self.group.primary != self.group.candidate
        assert [node.role for node in self.group.nodes].count(Role.PRIMARY) == 1
        assert [node.candidate for node in self.group.nodes].count(True) == 1
        assert self.saved.assigned in (None, *self.group.names)


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(deadline=None, max_examples=150, stateful_step_count=40)
