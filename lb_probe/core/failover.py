"""The failover rule, as a table.

Everything that can move traffic by itself is a row of `RULES`. Adding an `if` anywhere else is a
bug. Rows do not overlap and leave no gap, so their order is free: `_expand` refuses, at import, a
table in which two rows match one situation or none does.

What the columns mean (all are values built by `core.evidence`; the table knows no clock):

* traffic      PRIMARY; MOVED (any other node holds it, the Secondary or a DR site);
               UNASSIGNED (nothing saved, and the load balancers say neither, both, or disagree).
* primary      the status page of the configured Primary only. FAIL needs `fall` failures without a
               break over `confirm`, each started after the Secondary's page last began to answer:
               a prober whose own link comes back must not take old failures for new ones.
               UNKNOWN: no verdict.
* says         does the Primary's own hastatus page, fresh, say Standby? Anything else, a failure
               included, is OTHER: that page can never make the Primary fail.
* secondary    the hastatus page of the candidate (on PRIMARY) or of the node with the traffic
               (MOVED). STALE: no usable reading; while the Primary is not OK also one that started
               before the first failure of its streak, or whose latest probe failed.
* serving      the status page of the node with the traffic, whatever its mode. YES; WAITING (not
               since the move, deadline running); NO; UNKNOWN (no verdict). MOVED only.
* automation   ARMED; BLOCKED (a brake is on: hold, act: false, one-shot spent, limit, store not
               writable; the reasons travel beside the decision); ISOLATED (the prober is cut off).

Source: High Availability guide, "Load balancer", lines 206-226; REQUIREMENTS 4.1, X1-X22.
"""

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from enum import Enum
from itertools import product
from typing import Any

from lb_probe.core.model import (
    Action,
    Automation,
    Decision,
    Primary,
    Says,
    Secondary,
    Serving,
    Situation,
    Traffic,
)

ON_P, MOVED, NOWHERE = {Traffic.PRIMARY}, {Traffic.MOVED}, {Traffic.UNASSIGNED}
P, W, S, V, G, A = Primary, Says, Secondary, Serving, Automation, Action
AUTO = {G.ARMED, G.BLOCKED}  # not isolated


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: the situations it covers and the answer for all of them."""

    id: str
    traffic: Set[Traffic]
    primary: Set[Primary]
    says: Set[Says]
    secondary: Set[Secondary]
    serving: Set[Serving]
    automation: Set[Automation]
    action: Action
    condition: str


# fmt: off
RULES = (
    #    id     traffic     primary                  says           secondary                                serving       automation      action        condition
    Rule("U1",  NOWHERE,    set(P),                  set(W),        set(S),                                  set(V),       set(G),         A.NONE,       "unassigned"),

    Rule("P1",  ON_P,       {P.OK},                  {W.OTHER},     {S.STANDBY},                             set(V),       AUTO,           A.NONE,       "normal"),
    Rule("P2",  ON_P,       {P.OK},                  {W.OTHER},     {S.PRIMARY},                             set(V),       AUTO,           A.NONE,       "dual-primary"),
    Rule("P3",  ON_P,       {P.OK},                  {W.OTHER},     {S.FAIL, S.STALE, S.UNKNOWN_MODE},       set(V),       AUTO,           A.NONE,       "unprotected"),
    # A real Standby does not serve /status: two swapped nodes look like P.FAIL, and are not promoted-early.
    Rule("P4",  ON_P,       {P.OK},                  {W.STANDBY},   set(S),                                  set(V),       AUTO,           A.NONE,       "role-mismatch"),
    Rule("P5",  ON_P,       {P.FAIL, P.UNKNOWN},     {W.STANDBY},   {S.PRIMARY},                             set(V),       AUTO,           A.NONE,       "role-mismatch"),
    Rule("P6",  ON_P,       {P.UNKNOWN},             {W.OTHER},     set(S),                                  set(V),       AUTO,           A.NONE,       "confirming"),
    Rule("P7",  ON_P,       {P.UNKNOWN},             {W.STANDBY},   set(S) - {S.PRIMARY},                    set(V),       AUTO,           A.NONE,       "confirming"),
    Rule("P8",  ON_P,       {P.FAIL},                set(W),        {S.STALE},                               set(V),       AUTO,           A.REPROBE,    "confirming"),
    Rule("P9",  ON_P,       {P.FAIL},                set(W),        {S.STANDBY},                             set(V),       {G.ARMED},      A.FAIL_OVER,  "failing-over"),
    Rule("P10", ON_P,       {P.FAIL},                set(W),        {S.STANDBY},                             set(V),       {G.BLOCKED},    A.NONE,       "failover-blocked"),
    Rule("P11", ON_P,       {P.FAIL},                {W.OTHER},     {S.PRIMARY},                             set(V),       AUTO,           A.NONE,       "promoted-early"),
    Rule("P12", ON_P,       {P.FAIL},                set(W),        {S.FAIL},                                set(V),       AUTO,           A.NONE,       "no-standby"),
    Rule("P13", ON_P,       {P.FAIL},                set(W),        {S.UNKNOWN_MODE},                        set(V),       AUTO,           A.NONE,       "unknown-mode"),

    # Latched: no row has an action, whatever the columns say (X1).
    Rule("S1",  MOVED,      {P.FAIL, P.UNKNOWN},     set(W),        set(S),                                  {V.YES},      AUTO,           A.NONE,       "failed-over"),
    Rule("S2",  MOVED,      {P.OK},                  set(W),        set(S),                                  {V.YES},      AUTO,           A.NONE,       "primary-returned"),
    Rule("S3",  MOVED,      set(P),                  set(W),        set(S),                                  {V.UNKNOWN},  AUTO,           A.NONE,       "confirming"),
    Rule("S4",  MOVED,      set(P),                  set(W),        set(S),                                  {V.WAITING},  AUTO,           A.NONE,       "failing-over"),
    Rule("S5",  MOVED,      set(P),                  set(W),        {S.STANDBY, S.PRIMARY, S.UNKNOWN_MODE},  {V.NO},       AUTO,           A.NONE,       "not-serving"),
    Rule("S6",  MOVED,      {P.OK, P.UNKNOWN},       set(W),        {S.FAIL, S.STALE},                       {V.NO},       AUTO,           A.NONE,       "secondary-down"),
    Rule("S7",  MOVED,      {P.FAIL},                set(W),        {S.FAIL, S.STALE},                       {V.NO},       AUTO,           A.NONE,       "all-down"),

    Rule("I1",  ON_P | MOVED, set(P),                  set(W),        set(S),                                  set(V),       {G.ISOLATED},   A.NONE,       "prober-isolated"),
)
# fmt: on

COLUMNS: tuple[tuple[str, type[Enum]], ...] = (
    ("traffic", Traffic),
    ("primary", Primary),
    ("says", Says),
    ("secondary", Secondary),
    ("serving", Serving),
    ("automation", Automation),
)
CONDITIONS: tuple[str, ...] = tuple(dict.fromkeys(rule.condition for rule in RULES))


def _situations(columns: Iterable[Iterable[Any]]) -> Iterator[Situation]:
    return (Situation(*values) for values in product(*columns))


def _expand(rules: Iterable[Rule]) -> Mapping[Situation, Rule]:
    """Turn rows into a flat lookup.

    Raises:
        ValueError: Two rows cover one situation, or none does.
    """
    table: dict[Situation, Rule] = {}
    for rule in rules:
        for situation in _situations(getattr(rule, name) for name, _ in COLUMNS):
            if situation in table:
                raise ValueError(f"rules {table[situation].id} and {rule.id} cover {situation}")
            table[situation] = rule
    missing = set(_situations(kind for _, kind in COLUMNS)) - table.keys()
    if missing:
        raise ValueError(f"no rule covers {len(missing)}, first {min(map(str, missing))}")
    return table


_TABLE = _expand(RULES)


def decide(situation: Situation, blocked: tuple[str, ...] = ()) -> Decision:
    """Return the one decision for this situation.

    Args:
        blocked: The brakes that are on; they only travel along, `automation` already knows.

    >>> rule_holds = Situation(
    ...     Traffic.PRIMARY, P.FAIL, W.OTHER, S.STANDBY, V.UNKNOWN, Automation.ARMED
    ... )
    >>> decide(rule_holds).action
    <Action.FAIL_OVER: 'fail-over'>
    """
    rule = _TABLE[situation]
    return Decision(rule.id, rule.action, rule.condition, situation, blocked)


def as_markdown(rules: Iterable[Rule] = RULES) -> str:
    """Render the rows for `docs/decision-table.md`, which a test compares."""
    heads = ["rule", *(name for name, _ in COLUMNS), "action", "condition"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for rule in rules:
        cells = [words(getattr(rule, name), kind) for name, kind in COLUMNS]
        lines.append(f"| {' | '.join([rule.id, *cells, rule.action.value, rule.condition])} |")
    return "\n".join(lines) + "\n"


def words(values: Set[Any], kind: type[Enum]) -> str:
    """Return the values of one cell of a table, as its page shows them."""
    if len(values) == len(kind):
        return "any"
    return ", ".join(sorted(v.value for v in values))
