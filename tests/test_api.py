"""The operator API on a real TCP port and a real UNIX socket, over a real controller.

Observations are fed by hand, so that a test decides what the prober knows.
"""

import asyncio
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys

import pytest
from api_desk import GROUP, PATIENCE_S, TOKENS, until

from lb_probe.admin import api as api_room
from lb_probe.admin.api import LONGEST_DAYS, MAX_BODY, duration
from lb_probe.core.acts import VERBS
from lb_probe.core.model import Event
from lb_probe.history import CHANGES
from lb_probe.ports import Invalid


def routes(app):
    """Every method and path the router knows."""
    return {(r.method, r.resource.canonical) for r in app.router.routes()}


def concrete(path):
    return path.format(group="epmm", verb="hold", token="nobody")


LOGIN = ("POST", "/api/v1/session")  # shows its token for the first time; see test_door.py


# ------------------------------------------------------------------ who is it
async def test_every_route_refuses_who_brings_no_token(desk):
    before = desk.state
    found = routes(desk.applications[0])
    assert len(found) == 12
    for method, path in found - {LOGIN}:
        answer = await desk.ask(method, concrete(path), who=None)
        assert answer.error == (401, "unauthorized")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert desk.state == before


async def test_every_route_wants_at_least_a_viewer_and_every_act_an_operator(desk):
    for method, path in routes(desk.applications[0]):
        if path == "/api/v1/events" or (method, path) == LOGIN:
            continue
        answer = await desk.ask(method, concrete(path), who="vic")
        if method == "POST" or "tokens" in path:
            wanted = "admin" if "tokens" in path else "operator"
            assert answer.error == (403, "forbidden")
            assert f"vic is a viewer; this needs {wanted}" in answer.json["detail"]
        else:
            assert answer.status == 200
    assert desk.view.saved.hold is None


@pytest.mark.parametrize("who", ["ops", "adm"])
async def test_operator_and_admin_act_and_the_history_names_them(desk, who):
    answer = await desk.act("ack", who=who)
    assert answer.status == 200
    assert answer.json["last_change"]["actor"] == who
    assert answer.json["acked"] == f"{who}: because"


@pytest.mark.parametrize(
    "header",
    [
        "Bearer wrong",
        "Bearer",
        "Bearer ",
        "",
        " ",
        TOKENS["ops"],
        f"Basic {TOKENS['ops']}",
        f"Bearer {TOKENS['ops'][:-1]}",
        f"Bearer {TOKENS['ops']}x",
        f"Bearer {TOKENS['ops'].upper()}",
        f"Bearer {TOKENS['ops']} {TOKENS['ops']}",
        "Bearer \xff\xfe",
    ],
)
async def test_anything_but_the_whole_token_is_nobody(desk, header):
    line = b"Authorization: " + header.encode("latin-1")
    answer = await desk.raw(
        b"GET /api/v1/groups HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + line + b"\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b'"unauthorized"' in answer


async def test_bearer_is_a_word_without_a_case(desk):
    headers = {"Authorization": f"bEARER {TOKENS['vic']}"}
    assert (await desk.get("/api/v1/groups", who=None, headers=headers)).status == 200


@pytest.mark.parametrize("key", ["token", "access_token", "authorization", "bearer"])
async def test_token_in_the_address_is_not_accepted(desk, key):
    answer = await desk.get(f"/api/v1/groups?{key}={TOKENS['adm']}", who=None)
    assert answer.error == (401, "unauthorized")


async def test_who_is_nobody_learns_nothing_of_groups_and_sends_no_body(desk):
    answer = await desk.ask("POST", "/api/v1/groups/other/nonsense", who=None, data=b"{")
    assert answer.error == (401, "unauthorized")
    large = await desk.ask("POST", f"{GROUP}/hold", who=None, data=b" " * (MAX_BODY + 1))
    assert large.error == (401, "unauthorized")


@pytest.mark.skipif(os.geteuid() != 0, reason="the peer must be root")
async def test_root_on_the_socket_acts_without_a_token(desk):
    answer = await desk.act("ack", who=None, session=desk.local)
    assert answer.status == 200
    assert answer.json["last_change"]["actor"] == "root"


async def test_wrong_token_on_the_socket_is_not_made_good_by_the_peer(desk):
    for header in ("Bearer wrong", "Bearer", ""):
        answer = await desk.act(
            "ack", who=None, session=desk.local, headers={"Authorization": header}
        )
        assert answer.error == (401, "unauthorized")
    assert (await desk.act("ack", who="vic", session=desk.local)).error == (403, "forbidden")
    assert desk.view.saved.acked is None


KNOCK = """
import socket, sys
with socket.socket(socket.AF_UNIX) as link:
    link.connect(sys.argv[1])
    link.sendall(b"GET /api/v1/groups HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
    print(link.recv(100).split(b"\\r\\n")[0].decode())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_another_user_on_the_socket_is_nobody(desk, folder):
    folder.chmod(0o755)
    desk.socket.chmod(0o666)
    knock = await asyncio.create_subprocess_exec(
        shutil.which("python3", path="/usr/bin:/bin") or sys.executable,
        *("-c", KNOCK, str(desk.socket)),
        stdout=subprocess.PIPE,
        user=65534,
        cwd="/",
    )
    said, _ = await asyncio.wait_for(knock.communicate(), PATIENCE_S)
    assert said.decode().strip() == "HTTP/1.1 401 Unauthorized"


# ------------------------------------------------------------------ reading
KEYS = [
    *("name", "policy", "act", "assigned", "latched", "condition", "rule", "reason", "blocked"),
    *("hold", "generation", "nodes", "adapters", "last_change"),
]


async def test_group_is_told_with_the_documented_keys(desk):
    desk.all_is_well()
    group = (await desk.get(GROUP)).json
    assert [key for key in group if key in KEYS] == KEYS
    assert group.keys() - set(KEYS) == {"acked", "roles_swapped", "objections", "warnings"}
    assert group["name"] == "epmm"
    assert (group["policy"], group["act"]) == ("manual-resume", True)
    assert (group["assigned"], group["latched"], group["generation"]) == ("a", False, 1)
    assert (group["condition"], group["blocked"], group["hold"]) == ("normal", [], None)
    assert group["reason"] == "a serves and b stands by"
    assert group["adapters"] == [
        {
            "name": "edge",
            "type": "model",
            "wanted": "a",
            "seen": "a",
            "usable": True,
            "in_sync": True,
            "foreign_writer": False,
            "detail": "",
            "version": None,
            "uptime_s": None,
            "restarts": 0,
            "owner": None,
        }
    ]
    change = group["last_change"]
    assert (change["kind"], change["from"], change["to"]) == ("adopt", None, "a")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", change["at"])
    assert change["evidence"] == []


async def test_nodes_are_told_with_what_their_pages_said(desk):
    assert (await desk.get(GROUP)).json["nodes"][0]["probes"] == {"status": {}, "hastatus": {}}
    desk.all_is_well()
    a, b = (await desk.get(GROUP)).json["nodes"]
    assert (a["name"], a["role"], a["serving"], a["mode"]) == ("a", "primary", "ok", "primary")
    assert (b["name"], b["role"], b["mode"]) == ("b", "secondary", "standby")
    assert b["serving"] in ("unknown", "fail")
    status = a["probes"]["status"]
    assert status.keys() == {"result", "phase", "detail", "duration_s", "age_s", "in_a_row"}
    assert (status["result"], status["phase"], status["detail"]) == ("ok", None, "")
    assert status["age_s"] >= 0
    failed = b["probes"]["status"]
    assert (failed["result"], failed["phase"]) == ("failed", "status")
    assert failed["detail"] == "503 Service Unavailable"


async def test_failover_shows_its_evidence_and_the_latch(desk):
    await desk.fail_over()
    group = (await desk.get(GROUP)).json
    assert (group["assigned"], group["latched"], group["generation"]) == ("b", True, 2)
    change = group["last_change"]
    assert (change["kind"], change["from"], change["to"]) == ("failover", "a", "b")
    assert change["actor"] == "lb-probe"
    assert any("connection refused" in line for line in change["evidence"])


async def test_groups_are_listed_as_each_one_is_told(desk):
    listed = (await desk.get("/api/v1/groups")).json
    assert listed.keys() == {"groups"}
    assert [g["name"] for g in listed["groups"]] == ["epmm"]
    assert listed["groups"][0].keys() == (await desk.get(GROUP)).json.keys()


async def test_explanation_names_the_rule_and_after_a_move_the_gates(desk):
    desk.all_is_well()
    calm = (await desk.get(f"{GROUP}/explain")).json
    assert (calm["condition"], calm["gates"], calm["paste"]) == ("normal", [], "")
    assert f"(rule {calm['rule']})" in calm["text"]
    await desk.fail_over()
    moved = (await desk.get(f"{GROUP}/explain")).json
    assert "primary-serving" in {g["id"] for g in moved["gates"] if not g["passed"]}
    assert moved["paste"].startswith("lb-probe resume epmm ")
    assert "awaiting manual resume" in moved["text"]


async def test_history_is_newest_last_and_can_be_cut(desk):
    for reason in ("one", "two", "three"):
        await desk.act("ack", {"reason": reason})
    records = (await desk.get("/api/v1/history")).json["history"]
    done = [r for r in records if r["kind"] in CHANGES]
    assert [r["kind"] for r in done] == ["adopt", "ack", "ack", "ack"]
    assert done[-1].keys() == {"group", "kind", "at", "generation", "details"}
    assert done[-1]["details"]["reason"] == "three"
    last = (await desk.get("/api/v1/history?group=epmm&limit=1")).json["history"]
    assert len(last) == 1


async def test_history_can_be_read_page_by_page(desk):
    for number in range(7):
        await desk.act("ack", {"reason": str(number)})
    pages, before = [], "999999"
    while before is not None:
        answer = (await desk.get(f"/api/v1/history?all=1&limit=3&before={before}")).json
        pages.insert(0, answer["history"])
        before = answer["before"]
    told = [r["details"]["reason"] for page in pages for r in page if r["kind"] == "ack"]
    assert told == [str(number) for number in range(7)]
    assert (await desk.get("/api/v1/history?since=1h&limit=5")).json["history"]
    assert (await desk.get("/api/v1/history?since=2100-01-01T00:00Z")).json["history"] == []


@pytest.mark.parametrize(
    "query", ["since=soon", "since=", "before=0", "before=x", "before=-1", "all=yes", "all=2"]
)
async def test_history_of_a_span_that_cannot_be_understood_is_invalid(desk, query):
    assert (await desk.get(f"/api/v1/history?{query}")).error == (422, "invalid")


@pytest.mark.parametrize(
    "limit", ["0", "-1", "10001", "x", "", "1e3", "٣", "0000000010001", "9" * 5000]
)
async def test_history_limit_out_of_range_is_invalid(desk, limit):
    answer = await desk.get("/api/v1/history", params={"limit": limit})
    assert answer.error == (422, "invalid")
    assert "1 to 10000" in answer.json["detail"]


async def test_document_names_every_route_and_every_verb(desk):
    document = (await desk.get("/api/v1/openapi.json")).json
    named = {(m.upper(), path) for path, ways in document["paths"].items() for m in ways}
    assert named == routes(desk.applications[0])
    act = document["paths"]["/api/v1/groups/{group}/{verb}"]["post"]
    assert tuple(act["parameters"][1]["schema"]["enum"]) == VERBS
    body = act["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"].keys() == {
        *("reason", "to", "for", "hands_off", "override", "attest", "generation", "dry_run")
    }


# ------------------------------------------------------------------ what is not there
async def test_unknown_group_is_not_found_and_the_known_ones_are_named(desk):
    for method, path in [
        ("GET", "/api/v1/groups/other"),
        ("GET", "/api/v1/groups/other/explain"),
        ("GET", "/api/v1/history?group=other"),
        ("POST", "/api/v1/groups/other/ack"),
    ]:
        answer = await desk.ask(method, path, data=b'{"reason": "x"}')
        assert answer.error == (404, "not-found")
        assert "the groups are: epmm" in answer.json["detail"]


async def test_unknown_verb_and_unknown_path_are_not_found(desk):
    verb = await desk.act("explode")
    assert verb.error == (404, "not-found")
    assert "resume" in verb.json["detail"]
    for path in ("/", "/api", "/api/v2/groups", "/api/v1/groups/", "/metrics", "/../etc/passwd"):
        assert (await desk.get(path)).error == (404, "not-found")


@pytest.mark.parametrize("name", ["%00", "%0a", "%1b%5b31m", "%ff", "..%2f..", "x" * 3000])
async def test_strange_names_are_not_found_and_their_echo_is_harmless(desk, name):
    line = f"GET /api/v1/groups/{name} HTTP/1.1\r\n".encode()
    head = f"Host: x\r\nConnection: close\r\nAuthorization: Bearer {TOKENS['ops']}\r\n\r\n".encode()
    answer = await desk.raw(line + head)
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert not re.search(rb"[\x00\x1b]", answer)


async def test_other_methods_are_refused_with_those_that_are_allowed(desk):
    for method, path, allowed in [
        ("GET", f"{GROUP}/resume", "POST"),
        ("PUT", GROUP, "GET"),
        ("DELETE", GROUP, "GET"),
        ("PATCH", "/api/v1/history", "GET"),
        ("POST", "/api/v1/groups", "GET"),
    ]:
        answer = await desk.ask(method, path)
        assert answer.error == (405, "invalid")
        assert answer.headers["Allow"] == allowed


# ------------------------------------------------------------------ bodies
async def test_body_too_large_is_refused(desk):
    answer = await desk.ask("POST", f"{GROUP}/ack", data=b" " * (MAX_BODY + 1))
    assert answer.error == (413, "invalid")
    assert str(MAX_BODY) in answer.json["detail"]


BAD_BODIES = {
    "no JSON": b"reason=because",
    "half JSON": b'{"reason": "x"',
    "JSON twice": b'{"reason": "x"} {}',
    "no UTF-8": b'{"reason": "\xff"}',
    "a list": b"[]",
    "a string": b'"reason"',
    "null": b"null",
    "deep": b'{"attest": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "NaN": b'{"reason": "x", "generation": NaN}',
    "no reason": b"{}",
    "nothing at all": b"",
    "a blank reason": b'{"reason": " \\u00a0 "}',
    "unknown key": b'{"reason": "x", "resaon": "y"}',
    "Python's name of a key": b'{"reason": "x", "hold_for": "2h"}',
    "reason no text": b'{"reason": 5}',
    "reason too long": b'{"reason": "' + b"x" * 1001 + b'"}',
    "reason with NUL": b'{"reason": "a\\u0000b"}',
    "reason with a line end": b'{"reason": "a\\nb"}',
    "reason with an escape": b'{"reason": "\\u001b[31mred"}',
    "reason with C1": b'{"reason": "a\\u009bb"}',
    "reason that turns direction": b'{"reason": "a\\u202eb"}',
    "reason with half a character": b'{"reason": "\\ud800"}',
    "to no text": b'{"reason": "x", "to": ["b"]}',
    "to with NUL": b'{"reason": "x", "to": "b\\u0000"}',
    "to on ack": b'{"reason": "x", "to": "b"}',
    "for on ack": b'{"reason": "x", "for": "2h"}',
    "hands_off on ack": b'{"reason": "x", "hands_off": true}',
    "hands_off no bool": b'{"reason": "x", "hands_off": "yes"}',
    "dry_run no bool": b'{"reason": "x", "dry_run": 1}',
    "override no list": b'{"reason": "x", "override": "synced"}',
    "override of numbers": b'{"reason": "x", "override": [1]}',
    "override of an unknown gate": b'{"reason": "x", "override": ["everything"]}',
    "too many overrides": json.dumps({"reason": "x", "override": ["synced"] * 21}).encode(),
    "attest no object": b'{"reason": "x", "attest": ["synced"]}',
    "attest of an unknown gate": b'{"reason": "x", "attest": {"everything": "fine"}}',
    "attest without words": b'{"reason": "x", "attest": {"synced": " "}}',
    "attest with NUL": b'{"reason": "x", "attest": {"synced": "\\u0000"}}',
    "generation a text": b'{"reason": "x", "generation": "1"}',
    "generation a bool": b'{"reason": "x", "generation": true}',
    "generation a fraction": b'{"reason": "x", "generation": 1.5}',
    "generation below 0": b'{"reason": "x", "generation": -1}',
    "generation of 5000 digits": b'{"reason": "x", "generation": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("what", BAD_BODIES)
async def test_body_that_is_not_understood_changes_nothing(desk, what):
    before = desk.state
    answer = await desk.ask("POST", f"{GROUP}/ack", data=BAD_BODIES[what])
    assert answer.error == (422, "invalid")
    assert not re.search(rb"[\x00-\x08\x0e-\x1f\x7f]", answer.raw)
    assert desk.state == before


async def test_all_faults_of_a_body_are_told_at_once(desk):
    answer = await desk.act("ack", {"reason": 1, "hands_off": 2, "what": 3})
    assert all(f"{key}: " in answer.json["detail"] for key in ("reason", "hands_off", "what"))


async def test_reason_of_many_scripts_is_kept_as_it_was_written(desk):
    reason = "Wartung bis 18 Uhr, 維護 ✅ \N{WOMAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER}"
    answer = await desk.act("ack", {"reason": f"  {reason}  "})
    assert answer.json["last_change"]["reason"] == reason


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90.0), ("1.5h", 5400.0), ("250ms", 0.25), ("2d", 172800.0), ("366d", 31622400.0)],
)
def test_duration_is_a_number_with_a_unit(text, seconds):
    assert duration(text) == seconds


BAD_TIMES = [
    *("", "2", "h", "2 h", "-2h", "+2h", "2H", "2w", "1e3s", "inf", "nan", "٢h", "2h\n", "2h30m"),
    *("0s", "0.0h", "367d", "1000000d", "99999999999999999d", "9" * 21 + "d"),
]


@pytest.mark.parametrize("text", BAD_TIMES)
async def test_hold_for_no_good_time_is_invalid_and_nothing_is_held(desk, text):
    answer = await desk.act("hold", {"reason": "x", "for": text})
    assert answer.error == (422, "invalid")
    assert desk.view.saved.hold is None


def test_duration_beyond_all_numbers_is_invalid():
    with pytest.raises(Invalid, match=f"at most {LONGEST_DAYS}d"):
        duration("9" * 400 + "d")


async def test_hold_needs_a_time(desk):
    answer = await desk.act("hold", {"reason": "x"})
    assert answer.error == (422, "invalid")
    assert "`for`" in answer.json["detail"]


# ------------------------------------------------------------------ acting
async def test_one_form_serves_every_verb_and_what_is_empty_in_it_was_not_given(desk):
    form = {"reason": "x", "to": "", "for": "", "hands_off": False, "override": [], "attest": {}}
    answer = await desk.act("ack", {**form, "generation": None, "dry_run": False})
    assert (answer.status, answer.json["acked"]) == (200, "ops: x")
    answer = await desk.act("failover", {"reason": "x", "to": ""})  # a variable that was not set
    assert (answer.status, answer.json["error"]) == (422, "invalid")
    assert desk.view.saved.assigned == "a"


async def test_hold_and_release_are_shown(desk):
    held = await desk.act("hold", {"reason": "update", "for": "366d", "hands_off": True})
    assert held.status == 200
    hold = held.json["hold"]
    assert hold.keys() == {"by", "reason", "until", "hands_off"}
    assert (hold["by"], hold["reason"], hold["hands_off"]) == ("ops", "update", True)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", hold["until"])
    assert held.json["blocked"] == ["hold"]
    assert (await desk.act("release")).json["hold"] is None


async def test_refusal_tells_every_gate_and_the_line_to_paste(desk):
    await desk.fail_over()
    before = desk.state
    answer = await desk.act("resume")
    assert answer.error == (409, "refused")
    gates = {gate["id"]: gate for gate in answer.json["gates"]}
    assert list(gates) == [
        *("moved", "act", "hands-off", "adapters-reachable", "primary-serving"),
        *("single-primary", "synced"),
    ]
    assert all(gate.keys() == {"id", "passed", "found", "wanted"} for gate in gates.values())
    assert {name for name, gate in gates.items() if not gate["passed"]} == {
        *("primary-serving", "synced")
    }
    assert re.fullmatch(
        "lb-probe resume epmm --reason .+ --override primary-serving"
        " --attest synced='Completed HH:MMZ'",
        answer.json["paste"],
    )
    assert desk.state == before


async def test_refusal_is_opened_by_override_and_attest_and_the_history_keeps_both(desk):
    await desk.fail_over()
    answer = await desk.act(
        "resume",
        {
            "reason": "repaired",
            "override": ["primary-serving"],
            "attest": {"synced": "Completed 10:42Z"},
            "generation": 2,
        },
    )
    assert answer.status == 200
    group = answer.json
    assert (group["assigned"], group["latched"], group["generation"]) == ("a", False, 3)
    assert group["adapters"][0]["seen"] == "a"
    assert desk.balancer.chosen == {"a"}
    assert group["last_change"]["notes"] == {
        "override primary-serving": "repaired",
        "attest synced": "Completed 10:42Z",
    }


async def test_act_on_an_older_generation_is_a_conflict_that_names_the_newer(desk):
    await desk.act("ack")
    before = desk.state
    for dry_run in (False, True):
        answer = await desk.act("ack", {"reason": "x", "generation": 1, "dry_run": dry_run})
        assert answer.error == (409, "conflict")
        assert answer.json["generation"] == 2
    assert desk.state == before
    assert (await desk.act("ack", {"reason": "x", "generation": 2})).status == 200


async def test_of_two_acts_on_one_generation_one_is_done(desk):
    body = {"reason": "x", "generation": 1}
    answers = await asyncio.gather(*(desk.act("ack", body) for _ in range(5)))
    assert sorted(answer.status for answer in answers) == [200, 409, 409, 409, 409]
    assert desk.view.saved.generation == 2


async def test_dry_run_tells_plan_gates_and_commands_and_changes_nothing(desk):
    desk.all_is_well()
    before = desk.state
    answer = await desk.act("switchover", {"reason": "patch day", "dry_run": True})
    assert answer.status == 200
    assert answer.json.keys() == {"dry_run", "passed", "paste", "plan"}
    assert (answer.json["passed"], answer.json["paste"]) == (True, "")
    plan = answer.json["plan"]
    assert (plan["verb"], plan["group"]) == ("switchover", "epmm")
    assert (plan["from"], plan["to"], plan["generation"]) == ("a", "b", 1)
    assert plan["commands"] == ["edge: use b"]
    assert plan["warnings"] == []
    assert [gate["passed"] for gate in plan["gates"]] == [True] * 6
    assert desk.state == before
    assert desk.balancer.written == []


async def test_dry_run_of_what_would_be_refused_says_so(desk):
    answer = await desk.act("resume", {"reason": "x", "dry_run": True})
    assert answer.status == 200
    assert answer.json["passed"] is False
    assert answer.json["paste"] == "lb-probe status epmm"
    moved = answer.json["plan"]["gates"][0]
    assert (moved["id"], moved["passed"]) == ("moved", False)


async def test_dry_run_of_verbs_that_move_nothing_has_no_commands_but_for_republish(desk):
    commands = {}
    for verb, more in [("ack", {}), ("hold", {"for": "1h"}), ("republish", {})]:
        body = {"reason": "x", "dry_run": True, **more}
        commands[verb] = (await desk.act(verb, body)).json["plan"]["commands"]
    assert commands == {"ack": [], "hold": [], "republish": ["edge: use a"]}
    assert desk.view.saved.generation == 1


async def test_dry_run_of_a_release_warns_that_traffic_would_move(desk):
    desk.all_is_well()
    await desk.act("hold", {"reason": "x", "for": "2h"})

    def is_blocked():
        desk.primary_fails()
        return desk.view.decision.condition == "failover-blocked"

    await until(is_blocked, "the rule holds and the hold is on")
    plan = (await desk.act("release", {"reason": "x", "dry_run": True})).json["plan"]
    assert "traffic moves after 3 more failures" in plan["warnings"][0]


async def test_every_verb_is_served(desk):
    for verb in VERBS:
        answer = await desk.act(verb, {"reason": "x", "dry_run": True} | FOR.get(verb, {}))
        assert answer.status == 200
        assert answer.json["plan"]["verb"] == verb


FOR = {"hold": {"for": "2h"}}


async def test_failover_to_a_named_node_waits_for_the_load_balancer(desk):
    desk.all_is_well()
    answer = await desk.act("failover", {"reason": "now", "to": "b"})
    assert (answer.json["assigned"], answer.json["adapters"][0]["in_sync"]) == ("b", True)
    assert desk.balancer.written == ["b"]
    missing = await desk.act("failover", {"reason": "now", "to": "c"})
    assert missing.error == (422, "invalid")
    assert "its nodes are a, b" in missing.json["detail"]


# ------------------------------------------------------------------ what goes wrong with us
async def test_act_that_cannot_be_saved_is_told_and_not_done(desk):
    desk.all_is_well()
    desk.store.is_full = True
    answer = await desk.act("failover", {"reason": "now"})
    assert answer.error == (503, "failed")
    assert "disk is full" in answer.json["detail"]
    assert (desk.balancer.chosen, desk.view.saved.assigned) == ({"a"}, "a")


async def test_mistake_of_our_own_is_a_plain_answer_and_the_trace_is_in_the_log(
    desk, monkeypatch, caplog
):
    async def broken(*args):
        raise RuntimeError("secret of the inside")

    monkeypatch.setattr(desk.store, "history", broken)
    answer = await desk.get("/api/v1/history", headers={"Accept": "text/html"})
    assert answer.error == (500, "failed")
    assert b"secret" not in answer.raw
    assert b"Traceback" not in answer.raw
    assert "secret of the inside" in caplog.text


async def test_no_answer_says_what_serves_it_or_may_be_stored(desk):
    desk.store.is_full = True
    answers = [
        await desk.get("/api/v1/groups"),
        await desk.get("/api/v1/groups", who=None),
        await desk.get("/nowhere"),
        await desk.ask("PUT", GROUP),
        await desk.act("ack", who="vic"),
        await desk.act("ack", {}),
        await desk.act("ack"),
        await desk.act("resume"),
    ]
    assert [a.status for a in answers] == [200, 401, 404, 405, 403, 422, 503, 409]
    for answer in answers:
        assert "Server" not in answer.headers
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


# ------------------------------------------------------------------ events
class Listener:
    """Reads one stream of server-sent events."""

    def __init__(self, response):
        self.response = response

    async def next(self):
        """Return name and data of the next event."""
        name = None
        while True:
            line = await asyncio.wait_for(self.response.content.readline(), PATIENCE_S)
            if not line:
                return None
            key, _, value = line.decode().rstrip("\n").partition(": ")
            if key == "event":
                name = value
            elif key == "data":
                return name, json.loads(value)

    async def until(self, wanted):
        """Return the data of the next event of this name."""
        while (found := await self.next()) is not None:
            if found[0] == wanted:
                return found[1]
        raise AssertionError(f"the stream ended without {wanted}")


@contextlib.asynccontextmanager
async def listening(desk, who="vic"):
    headers = {"Authorization": f"Bearer {TOKENS[who]}"}
    async with desk.session.get("/api/v1/events", headers=headers) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store"
        yield Listener(response)


async def test_stream_begins_with_a_snapshot_and_goes_on_with_changes(desk):
    async with listening(desk) as listener:
        name, snapshot = await listener.next()
        assert name == "snapshot"
        assert [g["generation"] for g in snapshot["groups"]] == [1]
        await desk.act("ack", {"reason": "seen"})
        change = await listener.until("group.ack")
        assert change["group"] == "epmm"
        assert (change["reason"], change["generation"]) == ("seen", 2)
        group = await listener.until("group")
        assert (group["name"], group["generation"]) == ("epmm", 2)


async def test_probes_are_not_streamed(desk):
    async with listening(desk) as listener:
        await listener.until("snapshot")
        desk.all_is_well()
        desk.emit(Event("marker"))
        names = []
        while not names or names[-1] != "marker":
            names.append((await listener.next())[0])
        assert "group.condition" in names
        assert "probe.done" not in names


async def test_stream_is_kept_alive_while_nothing_happens(desk, monkeypatch):
    monkeypatch.setattr(api_room, "PING_S", 0.05)
    async with listening(desk) as listener:
        await listener.until("snapshot")
        lines = [await listener.response.content.readline() for _ in range(3)]
    assert b": ping\n" in lines


async def test_reader_that_leaves_is_forgotten(desk):
    async with listening(desk) as listener:
        await listener.until("snapshot")
        assert len(desk.api._readers) == 1

    def is_forgotten():
        desk.emit(Event("marker"))
        return not desk.api._readers

    await until(is_forgotten, "nobody is written to")
    assert desk.events._sinks == [desk.heard.append]


@contextlib.contextmanager
def deaf_reader(desk):
    """Somebody who asks for events and never reads one."""
    with socket.socket() as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.connect(("127.0.0.1", desk.port))
        bearer = f"Authorization: Bearer {TOKENS['vic']}"
        link.sendall(f"GET /api/v1/events HTTP/1.1\r\nHost: x\r\n{bearer}\r\n\r\n".encode())
        yield link


async def talk(desk, enough):
    """Emit large events until that is enough, with time for those who read."""
    async with asyncio.timeout(PATIENCE_S):
        while not enough():
            desk.emit(Event("noise", fields={"detail": "x" * 65_536}))
            await asyncio.sleep(0.002)


async def test_slow_reader_is_cut_off_and_the_others_miss_nothing(desk):
    with deaf_reader(desk):
        await until(lambda: len(desk.api._readers) == 1, "the deaf reader is there")
        async with listening(desk) as listener:
            await until(lambda: len(desk.api._readers) == 2, "both readers are there")

            async def read_all():
                await listener.until("marker")

            reading = asyncio.ensure_future(read_all())
            await talk(desk, lambda: len(desk.api._readers) == 1)
            desk.emit(Event("marker"))
            await reading


async def test_deaf_reader_does_not_delay_a_stop(desk):
    with deaf_reader(desk):
        await until(lambda: len(desk.api._readers) == 1, "the deaf reader is there")
        (reader,) = desk.api._readers
        await talk(desk, lambda: reader.queue.qsize() > 10)  # so a write waits for the reader
        async with listening(desk) as listener:
            await listener.until("snapshot")
            # Far below the runner's own patience of twice 30 s.
            await asyncio.wait_for(desk.close(), PATIENCE_S)
            while await listener.next() is not None:
                pass
    assert not desk.api._readers


async def test_stop_ends_streams_in_order(desk):
    async with listening(desk) as listener:
        await listener.until("snapshot")
        await asyncio.wait_for(desk.close(), PATIENCE_S)
        assert await listener.next() is None


async def test_streams_are_limited(desk, monkeypatch):
    monkeypatch.setattr(api_room, "MAX_STREAMS", 2)
    async with listening(desk) as one, listening(desk) as two:
        await one.until("snapshot")
        await two.until("snapshot")
        answer = await desk.get("/api/v1/events")
        assert answer.error == (503, "failed")
        assert "2 streams" in answer.json["detail"]
