"""The verbs that act: the plan, the question, the refusal, and the screen (R125, X5, X13)."""

import shlex
import signal

import click
import pytest
from cli_desk import (
    ACTS,
    GATES,
    PLAN,
    act_words,
    environment,
    failed_over,
    group,
    run,
    stub_at,
    terminal,
)
from free_ports import free_port


# ------------------------------------------------------------------ acting
@pytest.mark.parametrize("verb", ACTS)
def test_an_act_shows_the_plan_and_acts_on_the_generation_that_was_shown(any_api, verb):
    result = run(any_api, *act_words(verb, "--yes"))
    assert result.exit_code == 0, result.stderr
    assert "epmm-b -> epmm-a" in result.stderr
    assert "edge-1: set map /etc/haproxy/maps/active.map epmm a" in result.stderr
    assert "[ok] primary-serving: ok for 30s; wanted: ok" in result.stderr
    assert f"{verb} epmm: done" in result.stdout
    assert "in sync 2/2" in result.stdout
    assert [path for _, path, _ in any_api.asked] == [f"/api/v1/groups/epmm/{verb}"] * 2
    plan, act = (body for _, _, body in any_api.asked)
    assert (plan["dry_run"], "generation" in plan) == (True, False)
    assert (act["dry_run"], act["generation"], act["reason"]) == (False, 7, "it is time")


@pytest.mark.parametrize("verb", ACTS)
def test_an_act_without_a_reason_is_a_usage_error_with_an_example(api, verb):
    for words in ([verb, "epmm", "--yes"], [verb, "epmm", "--yes", "--reason", "  "]):
        result = run(api, *words)
        assert result.exit_code == 2
        assert f"lb-probe {verb} epmm" in result.stderr
        assert "--reason '" in result.stderr
    assert api.asked == []


@pytest.mark.parametrize("verb", ACTS)
def test_without_terminal_and_yes_an_act_is_refused_at_once_with_the_line_to_paste(api, verb):
    result = run(api, *act_words(verb))
    assert result.exit_code == 6
    line = shlex.join(["lb-probe", *act_words(verb), "--yes"])
    assert f"\n  {line}\n" in result.stderr
    assert api.asked == []


def test_a_node_without_a_name_is_no_choice_of_the_candidate(api):
    """`--to "$NODE"` where nobody set NODE."""
    result = run(api, "failover", "epmm", "--to", "", "--reason", "why", "--yes")
    assert result.exit_code == 2
    assert "--to: found no name" in result.stderr
    assert api.asked == []


def test_options_travel_in_the_body(api):
    run(api, "failover", "epmm", "--to", "epmm-c", "--reason", "why", "--yes")
    assert api.acts[-1]["to"] == "epmm-c"
    run(api, "hold", "epmm", "--for", "90m", "--hands-off", "--reason", "why", "--yes")
    assert (api.acts[-1]["for"], api.acts[-1]["hands_off"]) == ("90m", True)
    words = ["--override", "a", "--override", "b", "--attest", "synced=Completed 10:42Z = fine"]
    run(api, "resume", "epmm", "--reason", "why", "--yes", *words)
    assert api.acts[-1]["override"] == ["a", "b"]
    assert api.acts[-1]["attest"] == {"synced": "Completed 10:42Z = fine"}


@pytest.mark.parametrize("value", ["", "2", "0h", "2 h", "-2h", "h", "2y", "1.5h"])
def test_a_hold_needs_a_duration_with_a_unit(api, value):
    result = run(api, "hold", "epmm", "--for", value, "--reason", "why", "--yes")
    assert result.exit_code == 2
    assert "use 90m or 2h" in result.stderr
    assert run(api, "hold", "epmm", "--reason", "why", "--yes").exit_code == 2
    assert api.asked == []


@pytest.mark.parametrize("value", ["synced", "=text", "synced=", "synced= "])
def test_an_attestation_needs_a_gate_and_words(api, value):
    result = run(api, "resume", "epmm", "--reason", "why", "--yes", "--attest", value)
    assert result.exit_code == 2
    assert "use GATE=TEXT" in result.stderr
    assert api.asked == []


def test_a_dry_run_prints_the_commands_and_changes_nothing(api):
    result = run(api, *act_words("resume", "--dry-run"))
    assert result.exit_code == 0
    assert "edge-1: set map /etc/haproxy/maps/active.map epmm a" in result.stdout
    assert api.acts == []


def test_a_plan_without_commands_and_gates_says_so(api):
    plan = {**PLAN, "from": "epmm-a", "commands": [], "gates": [], "warnings": ["it moves at once"]}
    api.plan = (200, {"dry_run": True, "plan": plan, "passed": True})
    result = run(api, *act_words("release", "--dry-run"))
    for part in ("stays on epmm-a", "nothing is written", "none", "warning: it moves at once"):
        assert part in result.stdout


@pytest.mark.parametrize("more", ["--yes", "--dry-run"])
def test_a_closed_gate_in_the_plan_is_exit_6_and_nothing_is_sent(api, more):
    api.plan = (200, {"dry_run": True, "plan": {**PLAN, "gates": GATES}, "passed": False})
    result = run(api, *act_words("resume", more))
    assert result.exit_code == 6
    assert "[ok] primary-serving: ok for 30s; wanted: ok" in result.stderr
    assert "[no] synced: nobody says so; wanted: a newer sync" in result.stderr
    assert "lb-probe resume epmm --reason 'it is time' --override synced" in result.stderr
    assert api.acts == []


def test_the_apis_own_line_to_paste_is_preferred(api):
    plan = {**PLAN, "gates": GATES, "paste": "lb-probe resume epmm --attest synced='...'"}
    api.plan = (200, {"dry_run": True, "plan": plan, "passed": False})
    result = run(api, *act_words("resume", "--yes"))
    assert "  lb-probe resume epmm --attest synced='...'\n" in result.stderr


def test_a_gate_that_an_override_does_not_open_gets_no_line_to_paste(api):
    api.plan = (200, {"dry_run": True, "plan": {**PLAN, "gates": GATES}, "passed": False})
    result = run(api, *act_words("resume", "--yes", "--override", "synced"))
    assert result.exit_code == 6
    assert "to go on" not in result.stderr


def test_a_refusal_of_the_act_itself_prints_gates_and_the_line(api):
    paste = "lb-probe resume epmm --reason x --override synced"
    api.act = (409, {"error": "refused", "detail": "synced", "gates": GATES, "paste": paste})
    result = run(api, *act_words("resume", "--yes"))
    assert result.exit_code == 6
    assert "[no] synced" in result.stderr
    assert f"  {paste}\n" in result.stderr


def test_a_change_between_plan_and_act_is_exit_5_with_both_generations(api):
    api.act = (409, {"error": "conflict", "detail": "x", "generation": 8})
    result = run(api, *act_words("resume", "--yes"))
    assert result.exit_code == 5
    for part in ("generation 8 is in force", "the plan was for 7", "lb-probe status epmm"):
        assert part in result.stderr


def test_an_act_that_leaves_a_load_balancer_behind_names_it(api):
    behind = group(generation=8)
    behind["adapters"][1]["in_sync"] = False
    api.act = (200, behind)
    assert "in sync 1/2, not: edge-2" in run(api, *act_words("resume", "--yes")).stdout


# ------------------------------------------------------------------ on a terminal
def test_typing_the_groups_name_confirms(api):
    with terminal(*act_words("resume"), env=environment(api)) as screen:
        shown = screen.until("to go ahead")
        assert "epmm-b -> epmm-a" in shown
        assert "edge-1: set map" in shown
        assert api.acts == []
        screen.type("epmm\n")
        code, text = screen.end()
    assert code == 0
    assert "done" in text
    assert api.acts[0]["generation"] == 7


@pytest.mark.parametrize("typed", ["yes\n", "\n", "EPMM\n", "\x04", signal.SIGINT])
def test_typing_anything_else_is_exit_6_and_nothing_is_done(api, typed):
    with terminal(*act_words("resume"), env=environment(api)) as screen:
        screen.until("to go ahead")
        screen.until(": ")
        if isinstance(typed, str):
            screen.type(typed)
        else:
            screen.interrupt()
        code, text = screen.end()
    assert code == 6
    assert "nothing was done" in text
    assert api.acts == []


def test_a_terminal_gets_colours_and_local_time_and_no_color_takes_the_colours(api):
    with terminal("status", env=environment(api)) as screen:
        _, text = screen.end()
    assert "\x1b[" in text
    assert "2026-01-01 05:30:00+0530" in text
    assert "ok normal" in click.unstyle(text)
    with terminal("status", env=environment(api) | {"NO_COLOR": "1"}) as screen:
        _, text = screen.end()
    assert "\x1b[" not in text
    assert "ok normal" in text


def test_watch_goes_on_through_an_outage_and_says_that_it_is_not_live(tmp_path):
    place = str(tmp_path / "api")
    env = environment() | {"LB_PROBE_URL": f"unix://{place}"}
    with terminal("status", "-w", "0.1", env=env) as screen:
        with stub_at(place):
            screen.until("live from unix://")
            screen.until("epmm-a")
        screen.until("*** NOT LIVE: what follows is ")
        assert "old" in screen.until("***")
        screen.until("epmm-a")  # the last picture stays
        with stub_at(place):
            screen.until("live from unix://")
            screen.process.send_signal(signal.SIGINT)
            code, text = screen.end()
    assert code == 0
    assert "Traceback" not in text


def test_watch_starts_during_an_outage(tmp_path):
    env = environment() | {"LB_PROBE_URL": f"http://127.0.0.1:{free_port()}"}
    with terminal("status", "-w", env=env) as screen:
        screen.until("*** NOT LIVE: nothing seen yet")
        screen.process.send_signal(signal.SIGINT)
        assert screen.end()[0] == 0


def test_watch_of_one_group_may_stand_before_its_name(api):
    with terminal("status", "-w", "epmm", env=environment(api)) as screen:
        screen.until("both nodes are well")
        screen.process.send_signal(signal.SIGINT)
        assert screen.end()[0] == 0
    assert {path for _, path, _ in api.asked} == {"/api/v1/groups/epmm"}


def screens(text: str) -> list[list[str]]:
    """What was on the screen after each drawing."""
    return [click.unstyle(part).splitlines() for part in text.split("\x1b[H")[1:]]


def test_a_small_terminal_loses_no_column_and_keeps_the_worst_group_in_sight(api):
    names = [f"group-{n:02}" for n in range(30)]
    groups = [group(name=name) for name in names] + [failed_over(name="the-worst")]
    api.routes["GET", "/groups"] = (200, {"groups": groups})
    with terminal("status", env=environment(api), size=(24, 60)) as screen:
        _, text = screen.end()
    columns = click.unstyle(text).split("\r\n\r\n")[0].splitlines()
    assert max(map(len, columns)) <= 60
    assert all(name in text for name in names)
    with terminal("status", "-w", "0.1", env=environment(api), size=(24, 60)) as screen:
        seen = screen.until("more lines: lb-probe status") + screen.until("more lines")
        screen.process.send_signal(signal.SIGINT)
        assert screen.end()[0] == 0
    drawn = screens(seen)[0]
    assert len(drawn) <= 23
    assert "the-worst" in "".join(drawn[:5])


def test_watch_refuses_what_it_cannot_do(api):
    for words in (
        ["-w", "0"],
        ["-w", "nan"],
        ["-w", "soon", "epmm"],
        ["-w", "1", "-o", "json"],
        ["-w", "1", "--exit-code"],
    ):
        assert run(api, "status", *words).exit_code == 2
    assert run(api, "status", "-w", "nope").exit_code == 2  # an unknown group, not an outage
