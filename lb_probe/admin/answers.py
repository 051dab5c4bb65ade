"""JSON Schemas of what the operator's API answers, and of its errors.

Answers may gain keys, so none of these forbids further ones; a test compares them with answers of a
running prober, so that no key stays without its words.

Source: DESIGN section 7; JSON Schema 2020-12, as OpenAPI 3.1 takes it.
"""

from typing import Any

from lb_probe.core import active_active
from lb_probe.core.acts import VERBS
from lb_probe.core.failover import CONDITIONS
from lb_probe.core.model import Mode, Phase, Role

Schema = dict[str, Any]
CONDITION_WORDS = sorted({*CONDITIONS, *active_active.CONDITIONS})


def ref(name: str) -> Schema:
    """Return a reference to one of `SCHEMAS`."""
    return {"$ref": f"#/components/schemas/{name}"}


def _of(kind: str, text: str, **more: object) -> Schema:
    return {"type": kind, "description": text, **more}


def _or_null(kind: str, text: str, **more: object) -> Schema:
    return {"type": [kind, "null"], "description": text, **more}


def _words(text: str, *words: str) -> Schema:
    return {"type": "string", "description": text, "enum": list(words)}


def _list(text: str, items: Schema) -> Schema:
    return {"type": "array", "description": text, "items": items}


def _texts(text: str) -> Schema:
    return _list(text, {"type": "string"})


def _object(text: str, /, *optional: str, **properties: Schema) -> Schema:
    """Return an object all of whose keys are there, but for the optional ones.

    A key that is a word of Python ends with an underscore here.
    """
    keys = {key.rstrip("_"): schema for key, schema in properties.items()}
    required = [key for key in keys if key not in optional]
    return {"type": "object", "description": text, "properties": keys, "required": required}


def _or_none(name: str, text: str) -> Schema:
    return {"description": text, "anyOf": [ref(name), {"type": "null"}]}


_TIME = "ISO-8601, UTC"
_ASSIGNMENT = {"type": ["string", "array", "null"], "items": {"type": "string"}}

SCHEMAS: dict[str, Schema] = {
    "Group": _object(
        "One group: who has the traffic, why, and what the load balancers do.",
        *("in", "objections", "warnings", "panic_threshold"),
        name=_of("string", "its name in probes.yaml"),
        policy=_words("its policy in probes.yaml", "manual-resume", "active-active"),
        act=_of("boolean", "false: it is only observed, nothing is published"),
        assigned=_or_null("string", "the node with the traffic; null for nobody yet"),
        in_=_texts("active-active: the nodes with traffic"),
        latched=_of("boolean", "traffic was moved; only resume or swap-roles ends it"),
        condition=_words("the name of the situation", *CONDITION_WORDS),
        rule=_of("string", "the row of the decision table that matched"),
        reason=_of("string", "one sentence: what is the case, and whose turn it is"),
        blocked=_texts("the brakes that are on"),
        objections=_texts("what load balancers that check the Primary themselves say against it"),
        warnings=_texts("what should be seen to though it changes no condition"),
        hold=_or_none("Hold", "the hold that is on"),
        acked=_or_null("string", "who has seen it, and what he said"),
        generation=_of("integer", "grows with every saved change", minimum=0),
        roles_swapped=_of("boolean", "swap-roles was said, and the file does not agree yet"),
        panic_threshold=_of("number", "active-active: percent of the nodes that stay in"),
        nodes=_list("its nodes, in the order of the file", ref("Node")),
        adapters=_list("its load balancers", ref("Adapter")),
        last_change=_or_none("Change", "what was saved last"),
    ),
    "Hold": _object(
        "An operator's switch: no automatic move while it is on.",
        by=_of("string", "who put it on"),
        reason=_of("string", "why"),
        until=_of("string", f"when it is due; {_TIME}"),
        hands_off=_of("boolean", "true: nothing is written to load balancers, repairs included"),
    ),
    "Node": _object(
        "One node and what its pages said.",
        *("certificate_until", "in", "rule", "why"),
        name=_of("string", "its name in probes.yaml"),
        role=_words("its role", *(role.value for role in Role), "member"),
        candidate=_of("boolean", "the one that automation may move traffic to"),
        in_=_of("boolean", "active-active: it has traffic"),
        rule=_of("string", "active-active: the row of the table that matched"),
        why=_of("string", "active-active: why it is in or out"),
        serving=_words("whether its status page is OK", "ok", "fail", "unknown"),
        mode=_words("what its hastatus page says", *(mode.value for mode in Mode)),
        certificate_until=_or_null("string", f"when its certificate expires; {_TIME}"),
        probes={
            "type": "object",
            "description": "the last probe of each page: `status`, `hastatus`",
            "additionalProperties": ref("Probe"),
        },
    ),
    "Probe": {
        **_object(
            "The last probe of one page; empty before the first.",
            result=_words("what it came to", "ok", "failed"),
            phase={
                "type": ["string", "null"],
                "description": "the phase that failed; null where none did",
                "enum": [*(phase.value for phase in Phase), None],
            },
            detail=_of("string", "what was found, in words"),
            duration_s=_of("number", "seconds from start to verdict"),
            age_s=_of("number", "seconds since it started"),
            in_a_row=_of("integer", "probes with the same result in a row", minimum=0),
        ),
        "required": [],
    },
    "Adapter": _object(
        "One load balancer of one group.",
        *("version", "uptime_s", "restarts", "owner"),
        name=_of("string", "its name in probes.yaml"),
        type=_of("string", "its type in probes.yaml"),
        wanted={**_ASSIGNMENT, "description": "what we published; a list for active-active"},
        seen={**_ASSIGNMENT, "description": "what it says it does; null where it names no one"},
        usable=_or_null("boolean", "whether it would send traffic there; null: cannot tell"),
        in_sync=_of("boolean", "seen is what is wanted"),
        foreign_writer=_of("boolean", "somebody else writes there, and we stopped"),
        detail=_of("string", "its own words"),
        version=_or_null("string", "its version, where it tells"),
        uptime_s=_or_null("number", "seconds since it started, where it tells"),
        restarts=_of("integer", "restarts that were seen", minimum=0),
        owner=_or_null("string", "the mark of whoever published last"),
    ),
    "Change": _object(
        "The last saved change.",
        kind=_of("string", "what it was: failover, resume, hold ..."),
        from_=_or_null("string", "the node that had the traffic"),
        to=_or_null("string", "the node that has it"),
        at=_of("string", f"when; {_TIME}"),
        actor=_of("string", "who; lb-probe for the rule"),
        reason=_of("string", "why"),
        rule=_of("string", "the row that decided; empty for an operator's verb"),
        evidence=_texts("what had been seen, in words"),
        notes=_of("object", "gates that were overridden or attested, and the words"),
    ),
    "Gate": _object(
        "One condition of a verb.",
        id=_of("string", "its name, as --override and --attest take it"),
        passed=_of("boolean", "whether it is open"),
        found=_of("string", "what was found"),
        wanted=_of("string", "what was wanted"),
    ),
    "Groups": _object("All groups in the scope of the token.", groups=_list("each", ref("Group"))),
    "Explanation": _object(
        "Why a group is as it is.",
        group=_of("string", "its name"),
        condition=_words("the name of the situation", *CONDITION_WORDS),
        rule=_of("string", "the row of the decision table that matched"),
        blocked=_texts("the brakes that are on"),
        gates=_list("the gates of a resume, where one is due", ref("Gate")),
        paste=_of("string", "the line that resumes; empty where none would"),
        text=_of("string", "the same in words, several lines"),
    ),
    "Plan": _object(
        "What a verb would do; nothing was changed.",
        dry_run=_of("boolean", "always true"),
        passed=_of("boolean", "whether it would be done"),
        paste=_of("string", "the line that does it where a gate is closed"),
        plan=_object(
            "the plan",
            verb=_words("the verb", *VERBS),
            group=_of("string", "the group"),
            from_=_or_null("string", "the node that has the traffic"),
            to=_or_null("string", "the node that would have it"),
            generation=_of("integer", "give it back with the act: 409 if it changed", minimum=0),
            gates=_list("every gate, passed or not", ref("Gate")),
            commands=_texts("the literal commands for the load balancers"),
            warnings=_texts("what to know before saying yes"),
        ),
    ),
    "History": _object(
        "A page of what happened, newest last.",
        history=_list("the records", ref("Record")),
        before=_or_null("integer", "give it back for the page before this one; null: no more"),
    ),
    "Record": _object(
        "One record of the history.",
        group=_of("string", "the group; empty for the prober as a whole"),
        kind=_of("string", "a change's kind, or the name of what was noted"),
        at=_of("string", f"when; {_TIME}"),
        generation=_of("integer", "the one in force after it", minimum=0),
        details=_of("object", "what belongs to this kind"),
    ),
    "Token": _object(
        "A token, without its secret.",
        "token",
        id=_of("string", "its id, the middle of its text"),
        name=_of("string", "whose it is"),
        role=_words("what it may do", "viewer", "operator", "admin"),
        groups=_texts("the groups it is for; empty for all"),
        created=_of("string", f"when it was made; {_TIME}"),
        created_by=_of("string", "who made it"),
        expires=_or_null("string", f"when it ends; {_TIME}; null: never"),
        state=_words("whether it opens anything", "good", "revoked", "expired"),
        token=_of("string", "its text, in the answer that makes it and never again"),
    ),
    "Tokens": _object("All tokens.", tokens=_list("each", ref("Token"))),
    "Session": _object(
        "A session of a browser; its cookie is in the headers.",
        name=_of("string", "who"),
        role=_words("what he may do", "viewer", "operator", "admin"),
    ),
    "Nothing": _object("Nothing more to say."),
    "Error": _object(
        "Why it was not done.",
        *("gates", "paste", "generation"),
        error=_words(
            "the kind",
            *("unauthorized", "forbidden", "not-found", "invalid", "refused", "conflict", "failed"),
        ),
        detail=_of("string", "what was found, what was wanted, what to do"),
        gates=_list("refused: every gate", ref("Gate")),
        paste=_of("string", "refused: the line that helps; empty where none does"),
        generation=_of("integer", "conflict: the one in force now", minimum=0),
    ),
}
