"""Who comes in through the API's door, how long, and what is written down of it (X5, R125)."""

import asyncio
import json
import os

import aiohttp
import pytest
from api_desk import GROUP, TOKENS
from click.testing import CliRunner

from lb_probe import cli
from lb_probe.admin import api as api_room
from lb_probe.admin.auth import COOKIE, FAILURES, IDLE_S, SESSION_S, WINDOW_S, Failures, Sessions
from lb_probe.admin.tokens import TokenError, Tokens
from lb_probe.core.rank import Rank
from lb_probe.events.audit import lines
from lb_probe.ports import Invalid

OUR_PAGE = {"Sec-Fetch-Site": "same-origin"}
is_root = pytest.mark.skipif(os.geteuid() != 0, reason="the peer of the socket must be root")


def written(desk):
    """Every line of the audit log, its chain checked."""
    return list(lines(desk.audit.path))


async def make(desk, name, role="operator", **more):
    body = {"name": name, "role": role, **more}
    answer = await desk.ask("POST", "/api/v1/tokens", who="adm", json=body)
    assert answer.status == 200
    return answer.json["token"]


def with_token(text):
    return {"who": None, "headers": {"Authorization": f"Bearer {text}"}}


async def log_in(desk, token, **headers):
    answer = await desk.ask(
        "POST", "/api/v1/session", who=None, json={"token": token}, headers=OUR_PAGE | headers
    )
    cookie = answer.headers.get("Set-Cookie", "")
    return answer, cookie.partition(";")[0].partition("=")[2]


def with_cookie(cookie, **headers):
    return {"who": None, "headers": {"Cookie": f"{COOKIE}={cookie}", **headers}}


# ------------------------------------------------------------------ tokens
async def test_made_token_acts_in_its_name_until_it_is_revoked(desk):
    token = with_token(await make(desk, "dana"))
    answer = await desk.act("ack", **token)
    assert answer.json["acked"] == "dana: because"
    gone = await desk.ask("DELETE", "/api/v1/tokens/dana", who="adm")
    assert gone.json["state"] == "revoked"
    assert (await desk.act("ack", **token)).error == (401, "unauthorized")


async def test_token_is_kept_as_a_hash_and_survives_a_restart(desk, folder):
    text = await make(desk, "dana", "viewer")
    secret = text.rpartition("_")[2]
    assert secret not in (folder / "tokens.json").read_text()
    assert secret not in desk.audit.path.read_text()
    again = Tokens(folder / "tokens.json", desk.clock.wall)
    again.open()
    assert again.who(text).name == "dana"
    assert again.who(text[:-1] + ("A" if text[-1] != "A" else "B")) is None


async def test_list_shows_who_has_tokens_and_no_secret(desk):
    text = await make(desk, "dana", "viewer", groups=["epmm"], expires="90d")
    shown = (await desk.get("/api/v1/tokens", who="adm")).json["tokens"]
    assert [(t["name"], t["role"], t["groups"], t["state"]) for t in shown] == [
        ("dana", "viewer", ["epmm"], "good")
    ]
    assert text.rpartition("_")[2] not in json.dumps(shown)


@pytest.mark.parametrize("role", ["none", "king", "VIEWER"])
def test_a_token_of_no_role_is_refused_with_its_file(folder, role):
    """Nobody's role has a rank of its own; no file can give it."""
    path = folder / "t.json"
    made = Tokens(path, lambda: 0.0)
    made.create("dana", Rank.VIEWER, "ops")
    path.write_text(path.read_text().replace('"viewer"', f'"{role}"'))
    with pytest.raises(TokenError, match=rf"cannot be used \('{role}'\)"):
        Tokens(path, lambda: 0.0).open()


async def test_token_ends_at_its_time(folder):
    now = [1000.0]
    tokens = Tokens(folder / "t.json", lambda: now[0])
    _, text = tokens.create("dana", Rank.VIEWER, "root", lasts_s=60.0)
    now[0] = 1059.9
    assert tokens.who(text) is not None
    now[0] = 1060.0
    assert tokens.who(text) is None


async def test_token_of_one_group_does_not_see_another(desk):
    token = with_token(await make(desk, "dana", groups=["epmm"]))
    assert (await desk.get(GROUP, **token)).status == 200
    assert (await desk.get("/api/v1/history", **token)).error == (422, "invalid")
    assert (await desk.get("/api/v1/history?group=epmm", **token)).status == 200
    elsewhere = desk.tokens.create("eve", api_room.Rank.OPERATOR, "t", groups=["other"])[1]
    for path in (GROUP, f"{GROUP}/explain"):
        assert (await desk.get(path, **with_token(elsewhere))).error == (404, "not-found")
    assert (await desk.act("hold", **with_token(elsewhere))).error == (404, "not-found")
    assert (await desk.get("/api/v1/groups", **with_token(elsewhere))).json == {"groups": []}
    assert desk.view.saved.hold is None


async def test_admin_of_one_group_cannot_make_himself_one_of_all(desk):
    token = with_token(await make(desk, "dana", "admin", groups=["epmm"]))
    for method, path in (
        ("GET", "/api/v1/tokens"),
        ("POST", "/api/v1/tokens"),
        ("DELETE", "/api/v1/tokens/dana"),
    ):
        answer = await desk.ask(method, path, json={"name": "x", "role": "admin"}, **token)
        assert answer.error == (403, "forbidden")
        assert "epmm only" in answer.json["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {"name": "x"},
        {"name": "x", "role": "root"},
        {"name": "x y", "role": "viewer"},
        {"name": "", "role": "viewer"},
        {"name": "x", "role": "viewer", "expires": "soon"},
        {"name": "x", "role": "viewer", "secret": "mine"},
        {"name": "x" * 65, "role": "viewer"},
    ],
)
async def test_token_that_cannot_be_understood_is_not_made(desk, body):
    answer = await desk.ask("POST", "/api/v1/tokens", who="adm", json=body)
    assert answer.error == (422, "invalid")
    assert desk.tokens.every() == ()


async def test_two_good_tokens_never_have_one_name(desk):
    await make(desk, "dana")
    with pytest.raises(Invalid, match="there is a token for dana"):
        desk.tokens.create("dana", api_room.Rank.VIEWER, "t")


async def test_stream_ends_with_its_token(desk, monkeypatch):
    monkeypatch.setattr(api_room, "PING_S", 0.02)
    token = with_token(await make(desk, "dana", "viewer"))
    async with desk.session.get("/api/v1/events", headers=token["headers"]) as stream:
        await stream.content.readuntil(b": ping")
        await desk.ask("DELETE", "/api/v1/tokens/dana", who="adm")
        await asyncio.wait_for(stream.content.read(), 20)  # its end


# ------------------------------------------------------------------ sessions of browsers
async def test_session_reads_and_acts_from_our_page_only(desk):
    answer, cookie = await log_in(desk, TOKENS["ops"])
    assert answer.json == {"name": "ops", "role": "operator"}
    said = answer.headers["Set-Cookie"]
    assert said.startswith("__Host-")
    for word in ("HttpOnly", "Secure", "SameSite=Strict", "Path=/"):
        assert word in said
    assert "Domain" not in said
    assert TOKENS["ops"] not in said
    assert (await desk.get(GROUP, **with_cookie(cookie))).status == 200
    assert (await desk.act("ack", **with_cookie(cookie, **OUR_PAGE))).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1"},
    ],
)
async def test_another_site_cannot_act_with_a_session(desk, headers):
    _, cookie = await log_in(desk, TOKENS["ops"])
    answer = await desk.act("hold", {"for": "1h"}, **with_cookie(cookie, **headers))
    assert answer.error == (403, "forbidden")
    login = await desk.ask(
        "POST", "/api/v1/session", who=None, json={"token": TOKENS["ops"]}, headers=headers
    )
    assert login.error == (403, "forbidden")
    assert desk.view.saved.hold is None


async def test_origin_of_an_older_browser_is_believed_where_it_is_ours(desk):
    _, cookie = await log_in(desk, TOKENS["ops"])
    ours = {"Origin": f"http://127.0.0.1:{desk.port}"}
    assert (await desk.act("ack", **with_cookie(cookie, **ours))).status == 200


async def test_logout_and_a_revoked_token_end_a_session(desk):
    _, first = await log_in(desk, await make(desk, "dana"))
    _, second = await log_in(desk, await make(desk, "eric"))
    out = await desk.ask("DELETE", "/api/v1/session", **with_cookie(first, **OUR_PAGE))
    assert out.status == 200
    await desk.ask("DELETE", "/api/v1/tokens/eric", who="adm")
    for cookie in (first, second, "", "nonsense"):
        assert (await desk.get(GROUP, **with_cookie(cookie))).error == (401, "unauthorized")


def test_session_ends_after_an_hour_of_rest_and_after_half_a_day():
    now = [0.0]
    sessions = Sessions(lambda: now[0])
    resting, busy = sessions.begin("a"), sessions.begin("b")
    while now[0] < SESSION_S - IDLE_S:
        now[0] += IDLE_S - 1.0
        assert sessions.token(busy) == "b"
        assert sessions.token(resting) == ("" if now[0] >= IDLE_S else "a")
        resting = ""
    now[0] = SESSION_S
    assert sessions.token(busy) == ""


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"token": 1}', b'{"token": ""}', b"[" * 4000])
async def test_login_that_cannot_be_understood_is_invalid(desk, raw):
    answer = await desk.ask("POST", "/api/v1/session", who=None, data=raw, headers=OUR_PAGE)
    assert answer.error == (422, "invalid")


# ------------------------------------------------------------------ guessing
async def test_who_guesses_waits_and_others_go_on(desk):
    for _ in range(FAILURES):
        assert (await desk.get(GROUP, **with_token("wrong"))).status == 401
    late = await desk.get(GROUP, **with_token("wrong"))
    assert late.status == 429
    assert 0 < int(late.headers["Retry-After"]) <= WINDOW_S
    # From this address nobody gets in for a while, by whatever way; the socket is not affected.
    assert (await desk.get(GROUP)).status == 429
    assert (await log_in(desk, TOKENS["ops"]))[0].status == 429
    if os.geteuid() == 0:
        assert (await desk.get(GROUP, who=None, session=desk.local)).status == 200


async def test_who_brings_nothing_is_not_counted_as_guessing(desk):
    for _ in range(FAILURES + 1):
        assert (await desk.get(GROUP, who=None)).status == 401
    assert (await desk.get(GROUP)).status == 200


def test_failures_are_forgotten_after_their_window():
    now = [0.0]
    failures = Failures(lambda: now[0])
    for _ in range(FAILURES):
        failures.note("a")
    assert failures.wait_s("a") == WINDOW_S
    assert failures.wait_s("b") == 0
    now[0] = WINDOW_S
    assert failures.wait_s("a") == 0


# ------------------------------------------------------------------ the record
async def test_acts_refusals_and_logins_are_on_record(desk):
    await desk.act("hold", {"for": "1h", "reason": "upgrade"})
    await desk.act("resume")
    await desk.act("hold", {"for": "1h"}, who="vic")
    await log_in(desk, "wrong")
    _, cookie = await log_in(desk, TOKENS["ops"])
    told = [(r["action"], r["actor"], r.get("verb"), r.get("outcome")) for r in written(desk)]
    assert told == [
        ("act", "ops", "hold", "asked"),
        ("act", "ops", "hold", "done"),
        ("act", "ops", "resume", "asked"),
        ("act", "ops", "resume", "refused"),
        ("denied", "vic", None, None),
        ("login", None, None, "refused"),
        ("login", "ops", None, "done"),
    ]
    text = desk.audit.path.read_text()
    assert "upgrade" in text
    assert cookie not in text
    assert TOKENS["ops"] not in text


async def test_what_is_not_on_record_is_not_done(desk, folder):
    desk.all_is_well()
    before = desk.state
    (folder / "audit.jsonl").rename(folder / "old.jsonl")
    (folder / "audit.jsonl").mkdir()  # nobody can write a line there, not even root
    answer = await desk.act("hold", {"for": "1h", "reason": "upgrade"})
    assert answer.error == (503, "failed")
    assert "what is not on record is not done" in answer.json["detail"]
    assert "--offline" in answer.json["detail"]
    assert desk.state == before


async def test_plan_changes_nothing_and_is_not_on_record(desk):
    await desk.act("hold", {"for": "1h", "reason": "x", "dry_run": True})
    assert written(desk) == []


# ------------------------------------------------------------------ the verbs
async def run(desk, *words):
    env = {"LB_PROBE_URL": f"unix://{desk.socket}", "LB_PROBE_TOKEN": None}
    return await asyncio.to_thread(CliRunner().invoke, cli.cli, list(words), env=env)


@is_root
async def test_verbs_make_list_and_end_a_token(desk):
    made = await run(desk, "token", "create", "dana", "--role", "viewer", "--expires", "1d")
    text = made.stdout.strip()
    assert made.exit_code == 0
    assert "the only time that it is shown" in made.stderr
    assert (await desk.get(GROUP, **with_token(text))).status == 200
    listed = await run(desk, "token", "list")
    assert "dana" in listed.stdout
    assert "good" in listed.stdout
    assert text.rpartition("_")[2] not in listed.stdout
    ended = await run(desk, "token", "revoke", "dana")
    assert ended.stdout == "dana opens nothing any more\n"
    assert (await desk.get(GROUP, **with_token(text))).status == 401
    again = await run(desk, "token", "revoke", "dana")
    assert again.exit_code == 2
    assert "no token dana" in again.stderr


async def test_verbs_read_and_check_the_record(desk):
    await desk.act("hold", {"for": "1h", "reason": "two words"})
    file = ["--file", str(desk.audit.path)]
    shown = await run(desk, "audit", "show", *file)
    assert "hold" in shown.stdout
    assert 'reason="two words"' in shown.stdout
    whole = await run(desk, "audit", "verify", *file, "--head", desk.audit.head.digest)
    assert f"2 lines, no gap; line 2 has the hash you gave; head {desk.audit.head.digest}" in (
        whole.stdout
    )
    head = desk.audit.head.digest
    first, _ = desk.audit.path.read_text().splitlines(keepends=True)
    desk.audit.path.write_text(first)
    cut = await run(desk, "audit", "verify", *file, "--head", head)
    assert cut.exit_code == 1
    assert "cut off" in cut.stderr
    desk.audit.path.write_text(first.replace("two words", "one word!"))
    changed = await run(desk, "audit", "verify", *file)
    assert changed.exit_code == 1
    assert "line 1" in changed.stderr


async def test_no_answer_of_the_api_names_its_server(desk):
    async with aiohttp.ClientSession() as session:
        for path in ("/api/v1/groups", "/api/v1/nothing", "/"):
            async with session.get(f"http://127.0.0.1:{desk.port}{path}") as answer:
                assert "Server" not in answer.headers
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
