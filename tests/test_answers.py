"""Every answer of the API has the shape that its document gives it, and no key without words."""

import shutil
import tempfile
from pathlib import Path

import pytest
from api_desk import Desk, until

from lb_probe.admin.answers import SCHEMAS
from lb_probe.core.active_active import Pool
from lb_probe.core.acts import VERBS

jsonschema_rs = pytest.importorskip("jsonschema_rs", reason="needs schemathesis: make test")


@pytest.fixture
async def desk():
    folder = Path(tempfile.mkdtemp(prefix="answers", dir="/tmp"))
    pool = Pool("gw", ("gw-1", "gw-2", "gw-3"), fall=3, rise=2, max_age_s=60.0)
    async with Desk(folder, [pool]).open() as desk:
        await until(lambda: desk.view.adapters[0].in_sync, "the load balancer was read")
        yield desk
    shutil.rmtree(folder)


def undescribed(value, schema, where=""):
    """Every key of an answer that its schema says nothing of."""
    if "$ref" in schema:
        schema = SCHEMAS[schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        schema = schema["anyOf"][0]
    if isinstance(value, list):
        return [name for one in value for name in undescribed(one, schema["items"], where)]
    if not isinstance(value, dict):
        return []
    known, other = schema.get("properties"), schema.get("additionalProperties")
    if known is None and other is None:
        return []  # a mapping of anything
    found = [f"{where}.{key}" for key in value if known is not None and key not in known]
    for key, inner in value.items():
        more = other if known is None else known.get(key)
        found += undescribed(inner, more, f"{where}.{key}") if more else []
    return found


def check(name, answer, status=200):
    assert answer.status == status, answer.raw
    schema = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": SCHEMAS}}
    jsonschema_rs.validate(schema, answer.json)
    assert undescribed(answer.json, SCHEMAS[name], name) == []
    return answer.json


async def test_every_answer_has_the_shape_that_the_document_gives_it(desk):
    check("Group", await desk.get("/api/v1/groups/epmm"))  # before any probe
    await desk.fail_over()
    moved = check("Group", await desk.get("/api/v1/groups/epmm"))
    assert moved["last_change"]["evidence"]
    check("Group", await desk.act("hold", {"reason": "works", "for": "1h"}))
    check("Groups", await desk.get("/api/v1/groups"))
    check("Group", await desk.get("/api/v1/groups/gw"))
    for name in ("epmm", "gw"):
        check("Explanation", await desk.get(f"/api/v1/groups/{name}/explain"))
        for verb in VERBS:
            body = {"reason": "x", "dry_run": True} | ({"for": "1h"} if verb == "hold" else {})
            answer = await desk.ask("POST", f"/api/v1/groups/{name}/{verb}", json=body)
            check("Plan" if answer.status == 200 else "Error", answer, answer.status)
    check("Group", await desk.act("release"))
    assert check("Error", await desk.act("resume"), 409)["gates"]
    stale = check("Error", await desk.act("ack", {"reason": "x", "generation": 1}), 409)
    assert stale["generation"] > 1
    assert check("History", await desk.get("/api/v1/history?all=1"))["history"]


async def test_answers_about_tokens_and_sessions_have_their_shape_too(desk):
    body = {"name": "dana", "role": "viewer", "groups": ["epmm"], "expires": "1d"}
    path = "/api/v1/tokens"
    made = check("Token", await desk.ask("POST", path, who="adm", json=body))
    check("Tokens", await desk.get(path, who="adm"))
    ours = {"Sec-Fetch-Site": "same-origin"}
    login = {"json": {"token": made["token"]}, "headers": ours, "who": None}
    check("Session", await desk.ask("POST", "/api/v1/session", **login))
    assert check("Token", await desk.ask("DELETE", f"{path}/dana", who="adm"))["state"] == "revoked"
    check("Nothing", await desk.ask("DELETE", "/api/v1/session"))
    check("Error", await desk.ask("POST", "/api/v1/session", **login), 401)
    check("Error", await desk.ask("POST", path, who="vic", json=body), 403)
