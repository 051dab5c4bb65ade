"""One active-active group as the page shows it: the same card, with what means something here.

Source: DESIGN section 4; `core.pool_view` has the sentences.
"""

from lb_probe.admin.page.card import (
    BalancerRow,
    Card,
    NodeRow,
    balancer_row,
    cell,
    live_key,
    probe_text,
    said_change,
    said_hold,
)
from lb_probe.admin.page.draw import band
from lb_probe.admin.page.levels import Level, Standing, level_of
from lb_probe.admin.page.traces import Traces
from lb_probe.core.model import Page
from lb_probe.core.pool_view import PoolView, next_step, reason, set_of, warnings
from lb_probe.core.view import AdapterStatus, iso, probe_json


def pool_standing(view: PoolView) -> Standing:
    """Return what the headline needs to know of a group."""
    return Standing(view.name, _level(view))


def _level(view: PoolView) -> Level:
    found = level_of(view.condition)
    is_open = (
        any(not a.in_sync for a in view.adapters if a.wanted)
        or view.hold is not None
        or "store-not-writable" in view.decision.blocked
        or bool(warnings(view))
    )
    return max(found, Level.LOOK) if is_open else found


def pool_card(view: PoolView, traces: Traces, wall: float, level: Level, *, whole: bool) -> Card:
    """Put one group into words.

    Args:
        wall: UTC seconds since 1970, now.
        level: As `pool_standing` has it.
        whole: With drawings and pages; else what a row of the table shows.
    """
    name, condition = view.name, view.condition
    since = traces.since(name, condition)
    inside = [node for node in view.pool.nodes if node in view.members]
    share = f"{len(inside)} of {len(view.pool.nodes)}"
    return Card(
        name=name,
        level=level,
        condition=condition,
        rule=view.decision.rule,
        since="" if since is None else iso(since),
        assigned=f"{share} in",
        traffic=f"Traffic is on {', '.join(inside) or 'no node'}.",
        why=reason(view),
        next_step=next_step(view),
        outlook=_outlook(view) if whole else "",
        tags=_tags(view),
        hold=said_hold(view.hold),
        acked=view.saved.acked or "",
        warnings=tuple(warnings(view)),
        generation=view.generation,
        nodes=tuple(_node(view, traces, node) for node in view.pool.nodes) if whole else (),
        balancers=tuple(map(_balancer, view.adapters)),
        gates=(),
        paste="",
        verbs=_verbs(view),
        offer="",
        last_change=said_change(view.last_change),
        band=band(traces.stretches(name, condition), wall) if whole else None,
    )


def pool_live_texts(view: PoolView) -> dict[str, str]:
    """Return the texts of a whole card that change with every probe, or with time alone."""
    texts = {f"{view.name}/outlook": _outlook(view)}
    for node in view.pool.nodes:
        probe = probe_json(view.evidence.page(node, Page.STATUS), view.now)
        texts[live_key(view.name, node, Page.STATUS)] = probe_text(probe)
    return texts


def _outlook(view: PoolView) -> str:
    floor, every = view.pool.floor, len(view.pool.nodes)
    return f"none: nodes go out and come back by themselves; at least {floor} of {every} stay in"


def _tags(view: PoolView) -> tuple[str, ...]:
    tags = {
        "held, hands off": view.hold is not None and view.hold.hands_off,
        "held": view.hold is not None and not view.hold.hands_off,
        "observed only (act: false)": not view.act,
        "acknowledged": view.saved.acked is not None,
    }
    return tuple(word for word, is_on in tags.items() if is_on)


def _verbs(view: PoolView) -> tuple[str, ...]:
    verbs = {
        "ack": view.condition != "all-in" and view.saved.acked is None,
        "release": view.hold is not None,
        "hold": True,
        "republish": any(a.yielded for a in view.adapters),
    }
    return tuple(verb for verb, is_on in verbs.items() if is_on)


def _node(view: PoolView, traces: Traces, name: str) -> NodeRow:
    found = next(one for one in view.decision.nodes if one.node == name)
    page = view.evidence.page(name, Page.STATUS)
    return NodeRow(
        name=name,
        role="member",
        has_traffic=name in view.members,
        serving=found.situation.health.value,
        mode="",
        pages=(cell(traces, view.name, name, Page.STATUS, probe_json(page, view.now)),),
    )


def _balancer(adapter: AdapterStatus) -> BalancerRow:
    wanted = ", ".join(sorted(set_of(adapter.wanted))) if adapter.wanted else "none"
    seen = "cannot be read"
    if adapter.seen is not None:
        seen = ", ".join(sorted(adapter.seen.chosen)) or "none"
    return balancer_row(adapter, wanted, seen)
