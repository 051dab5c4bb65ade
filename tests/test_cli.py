"""The verbs against a canned API: what they print, and leave with (R125, X5, X13)."""

import json
import shlex
import subprocess
import sys
import time

import pytest
import yaml
from cli_desk import (
    ACTS,
    BAD_PROBE,
    GROUP,
    act_words,
    environment,
    failed_over,
    group,
    run,
)
from free_ports import free_port

import lb_probe
from lb_probe import cli
from lb_probe.render.group import status_table
from lb_probe.render.levels import RANKS, next_step
from lb_probe.render.text import Look


# ------------------------------------------------------------------ help
def test_the_help_page_has_every_verb_in_its_section_and_the_exit_codes():
    text = run(None, "--help").stdout
    places = [text.index(f"{section}:\n") for section in cli.SECTIONS]
    assert places == sorted(places)
    for name, verb in cli.cli.commands.items():
        assert f"  {name:<13} " in text
        assert verb.example in text
    for code, words in cli.EXIT_CODES:
        assert f"  {code:<3} {words}" in text
    assert run(None, "--version").stdout == f"lb-probe {lb_probe.__version__}\n"


def test_every_verb_of_the_contract_is_there():
    wanted = """
        demo init prober agent check config probe status explain history replay backup publish
        haproxy check-nagios completion token audit notify
        resume failover switchover hold release swap-roles ack accept republish
    """
    assert sorted(cli.cli.commands) == sorted(wanted.split())


@pytest.mark.parametrize("name", sorted(cli.cli.commands))
def test_the_help_of_each_verb_shows_an_example(name):
    result = run(None, name, "--help")
    assert result.exit_code == 0
    assert "Example: lb-probe " in result.stdout
    assert "--config" in result.stdout


def test_every_example_is_a_line_that_the_command_understands():
    for verb in cli.cli.commands.values():
        words = shlex.split(verb.example)
        assert words.pop(0) == "lb-probe"
        with cli.cli.make_context("lb-probe", words) as ctx:
            found = cli.cli.get_command(ctx, words[0])
            with found.make_context(words[0], words[1:], parent=ctx):
                pass


# ------------------------------------------------------------------ reading
READING = [
    ["status"],
    ["status", "epmm"],
    ["explain", "epmm"],
    ["history"],
    ["history", "epmm", "--limit", "5"],
]


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_every_reading_verb_answers_in_every_format(any_api, words):
    table = run(any_api, *words)
    assert (table.exit_code, table.stderr) == (0, "")
    assert "epmm" in table.stdout or "all is well" in table.stdout
    as_json = run(any_api, *words, "-o", "json")
    found = json.loads(as_json.stdout)
    assert next(iter(found)) == "version"
    assert found["version"] == 1
    assert yaml.safe_load(run(any_api, *words, "-o", "yaml").stdout) == found


def test_one_and_all_groups_have_the_same_document(api):
    one = json.loads(run(api, "status", "epmm", "-o", "json").stdout)
    assert one == {"version": 1, "groups": [GROUP]}
    assert one == json.loads(run(api, "status", "-o", "json").stdout)


def test_the_keys_of_a_document_come_in_the_same_order_whatever_the_api_sends(api):
    first = run(api, "status", "-o", "json").stdout
    api.routes["GET", "/groups"] = (200, {"groups": [dict(reversed(GROUP.items()))]})
    assert run(api, "status", "-o", "json").stdout == first


def test_history_passes_group_and_limit_on(api):
    run(api, "history", "epmm", "--limit", "5")
    assert api.asked[-1][1] == "/api/v1/history?group=epmm&limit=5"
    run(api, "history", "--since", "7d", "--all")
    assert api.asked[-1][1] == "/api/v1/history?limit=50&since=7d&all=1"


def test_status_shows_traffic_condition_change_balancers_and_hold(api):
    hold = {"by": "ops", "reason": "x", "until": "2026-01-01T02:00:00Z", "hands_off": True}
    found = failed_over(hold=hold)
    found["adapters"][1]["in_sync"] = False
    api.routes["GET", "/groups"] = (200, {"groups": [found]})
    text = run(api, "status").stdout
    for part in (
        "epmm-b (ok)",
        "!  failed-over",
        "2026-01-01T00:00:00Z resume",
        "in sync 1/2, not: edge-2",
        "hands off, by ops until 2026-01-01T02:00:00Z",
        "epmm: awaiting manual resume: lb-probe explain epmm",
    ):
        assert part in text
    assert "\x1b" not in text


def test_the_worst_group_comes_first(api):
    fine, moved = group(name="a-fine"), failed_over(name="m-moved")
    down = failed_over(name="z-down")
    down["nodes"][1]["serving"] = "fail"
    late = group(name="n-late")
    late["adapters"][0]["in_sync"] = False
    api.routes["GET", "/groups"] = (200, {"groups": [fine, late, moved, down]})
    rows = run(api, "status").stdout.splitlines()[1:5]
    assert [row.split()[0] for row in rows] == ["z-down", "m-moved", "n-late", "a-fine"]


@pytest.mark.parametrize(
    ("changes", "code", "word"),
    [
        ({}, 0, "OK - 1 group, nothing to see to"),
        ({"condition": "failed-over", "latched": True}, 1, "WARNING - epmm: failed-over"),
        ({"condition": "unprotected"}, 1, "WARNING - epmm: unprotected"),
        ({"hold": {"by": "ops"}}, 1, "WARNING - epmm: normal, on hold"),
        ({"condition": "confirming"}, 0, "OK"),
        ({"condition": "not-serving"}, 2, "CRITICAL - epmm: not-serving"),
        ({"condition": "failover-blocked"}, 2, "CRITICAL - epmm: failover-blocked"),
        ({"condition": "a-new-word"}, 2, "CRITICAL - epmm: a-new-word"),
        ({"name": "e|pmm", "condition": "all-down"}, 2, "e/pmm"),
        ({"blocked": ["store-not-writable"]}, 2, "normal, the store takes no writes"),
        ({"warnings": ["a: renew it"]}, 1, "WARNING - epmm: normal, a: renew it |"),
        ({"warnings": ["a\n|", "b"]}, 1, "and 1 more to see to"),
    ],
)
def test_a_monitor_gets_one_line_and_its_own_exit_codes(api, changes, code, word):
    api.routes["GET", "/groups"] = (200, {"groups": [{**GROUP, **changes}]})
    result = run(api, "check-nagios")
    assert result.exit_code == code
    assert word in result.stdout
    assert result.stdout.count("\n") == 1
    assert result.stdout.count("|") == 1


def test_a_load_balancer_out_of_sync_is_critical_and_a_silent_prober_unknown(api, tmp_path):
    apart = {**GROUP["adapters"][0], "in_sync": False}
    api.routes["GET", "/groups"] = (200, {"groups": [{**GROUP, "adapters": [apart]}]})
    assert run(api, "check-nagios").exit_code == 2
    api.routes["GET", "/groups"] = (200, {"groups": [{**GROUP, "adapters": [apart], "act": False}]})
    assert run(api, "check-nagios").exit_code == 0
    result = run(f"unix://{tmp_path}/none.sock", "check-nagios")
    assert (result.exit_code, result.stdout.split(" - ")[0]) == (3, "LB-PROBE UNKNOWN")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_completion(shell):
    result = run(None, "completion", shell)
    assert result.exit_code == 0
    assert "_LB_PROBE_COMPLETE" in result.stdout


def test_every_condition_of_the_table_has_a_mark_and_an_unknown_one_is_bad():
    from lb_probe.core.failover import RULES

    words = {rule.condition for rule in RULES}
    assert words <= set(RANKS)
    new = group(condition="brand-new")
    assert "!! brand-new" in "\n".join(status_table([new], Look()))


def test_one_group_shows_probes_adapters_and_the_next_step(api):
    api.routes["GET", "/groups/epmm"] = (200, failed_over(blocked=["one-shot spent"]))
    text = run(api, "status", "epmm").stdout
    for part in (
        "awaiting manual resume: lb-probe explain epmm",
        "both nodes are well (rule P1)",
        "one-shot spent",
        "epmm-b -> epmm-a",
        "epmm-a answered twice",
        "certificate expired",
        "hastatus",
        "0.3s",
        "edge-2",
        "ok yes",
    ):
        assert part in text


def test_an_unassigned_group_says_how_to_assign_it(api):
    api.routes["GET", "/groups"] = (200, {"groups": [group(assigned=None, condition="unassigned")]})
    text = run(api, "status").stdout
    assert "nobody" in text
    assert "lb-probe failover epmm --to NODE --reason" in text


def test_what_a_node_sends_cannot_drive_the_terminal(api):
    evil = "\x1b]0;owned\x07\x9b2J\r\n\u202e"
    found = group(reason=evil)
    found["nodes"][0]["probes"]["status"] = {**BAD_PROBE, "detail": evil}
    api.routes["GET", "/groups/epmm"] = (200, found)
    api.routes["GET", "/groups/epmm/explain"] = (200, {"group": "epmm", "text": f"a\n{evil}b"})
    for words in (["status", "epmm"], ["explain", "epmm"], ["status", "epmm", "-o", "json"]):
        text = run(api, *words).stdout
        assert not set(text) & set("\x1b\x07\x9b\r\u202e")


def test_missing_and_odd_details_do_not_break_the_picture(api):
    bare = {"name": "epmm", "condition": "normal", "nodes": [{"name": "a"}], "adapters": []}
    odd = group(hold=7, last_change=[], blocked=3, assigned=["x"], latched=None, name="odd")
    odd["nodes"][0]["probes"] = "none"
    odd["adapters"][0]["usable"] = None
    for found in (bare, odd):
        api.routes["GET", "/groups/epmm"] = (200, found)
        assert run(api, "status", "epmm").exit_code == 0
    api.routes["GET", "/groups"] = (200, {"groups": [bare, odd]})
    assert run(api, "status").exit_code == 0
    api.routes["GET", "/groups"] = (200, {"groups": []})
    assert run(api, "status").stdout == "no groups\n"
    api.routes["GET", "/history"] = (200, {"history": [{}, {"at": "soon", "details": [1]}]})
    assert run(api, "history").exit_code == 0


def test_exit_code_10_is_failed_over_and_11_not_served_wins(api):
    down = group(name="down")
    down["nodes"][0]["serving"] = "unknown"
    moved_by_hand = group(assigned="epmm-b")
    moved_by_hand["nodes"][1]["serving"] = "ok"
    for groups, code in [
        ([group()], 0),
        ([group(), failed_over()], 10),
        ([group(), moved_by_hand], 10),
        ([failed_over(), down], 11),
        ([group(assigned=None, condition="unassigned")], 0),
    ]:
        api.routes["GET", "/groups"] = (200, {"groups": groups})
        assert run(api, "status", "--exit-code").exit_code == code
        assert run(api, "status").exit_code == 0


def test_a_reader_that_closes_early_ends_the_command_without_a_traceback(api):
    shell = f"{sys.executable} -m lb_probe status -o json | head -c 1"
    done = subprocess.run(
        ["/bin/sh", "-c", shell], env=environment(api), capture_output=True, text=True, timeout=50
    )
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------ errors
@pytest.mark.parametrize(
    ("status", "word", "code", "next_step"),
    [
        (401, "unauthorized", 4, "LB_PROBE_TOKEN_FILE"),
        (403, "forbidden", 4, "whose role and groups allow it"),
        (404, "not-found", 2, "lb-probe status"),
        (422, "invalid", 2, "nothing was changed"),
        (500, "failed", 1, "log"),
    ],
)
def test_each_error_has_its_exit_code_and_names_the_next_step(api, status, word, code, next_step):
    answer = {"error": word, "detail": "the detail"}
    api.routes["GET", "/groups"] = (status, answer)
    api.plan = (status, answer)
    for words in (["status"], ["ack", "epmm", "--reason", "why", "--yes"]):
        result = run(api, *words)
        assert (result.exit_code, result.stdout) == (code, "")
        assert "the detail" in result.stderr
        assert next_step in result.stderr


def test_an_unreachable_api_is_exit_3_with_address_checks_and_break_glass(tmp_path):
    url = f"http://127.0.0.1:{free_port()}"
    result = run(url, "status")
    assert result.exit_code == 3
    for part in (url, "systemctl status lb-probe", "lb-probe publish GROUP --to NODE --offline"):
        assert part in result.stderr


@pytest.mark.parametrize("answer", [b"<html>hi</html>", b'{"groups": [', {"groups": 7}, [1]])
def test_a_nonsense_answer_is_said_to_be_one(api, answer):
    api.routes["GET", "/groups"] = (200, answer)
    result = run(api, "status")
    assert result.exit_code == 1
    assert "check the address" in result.stderr


def test_an_unknown_group_is_exit_2(api):
    assert run(api, "status", "nope").exit_code == 2
    assert run(api, "explain", "nope").exit_code == 2


def test_a_broken_configuration_is_exit_2_before_and_after_the_verb(tmp_path):
    file = tmp_path / "probes.yaml"
    file.write_text("api: [")
    for words in (["-c", str(file), "status"], ["status", "-c", str(file)]):
        result = run(None, *words)
        assert result.exit_code == 2
        assert f"{file}: is not YAML" in result.stderr


def test_the_configuration_after_the_verb_wins(api, tmp_path):
    good = tmp_path / "good.yaml"
    good.write_text(f"api: {{listen: '{api.url.removeprefix('http://')}'}}\n")
    assert run(None, "-c", str(tmp_path / "none.yaml"), "status", "-c", str(good)).exit_code == 0


# ------------------------------------------------------------------ light and fast
CLIENT_VERBS = [*READING, *[act_words(verb, "--yes") for verb in ACTS]]


@pytest.mark.parametrize("words", CLIENT_VERBS, ids=lambda words: " ".join(words[:2]))
def test_a_client_verb_loads_nothing_heavy(api, tmp_path, words):
    code = (
        "import sys\n"
        "from lb_probe.cli import cli\n"
        "try:\n    cli(sys.argv[2:])\n"
        "except SystemExit as end:\n"
        "    open(sys.argv[1], 'w').write('\\n'.join(sys.modules))\n"
        "    raise\n"
    )
    out = tmp_path / "modules"
    done = subprocess.run(
        [sys.executable, "-c", code, str(out), *words],
        env=environment(api),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    heavy = {"aiohttp", "pydantic", "yaml", "prometheus_client", "structlog", "tenacity", "asyncio"}
    ours = {"lb_probe.app", "lb_probe.config", "lb_probe.core"}
    loaded = set(out.read_text().splitlines())
    assert "lb_probe.client" in loaded
    assert not loaded & (heavy | ours)


def test_status_starts_fast(api, tmp_path):
    def best_s(*words: str) -> float:
        taken = []
        for _ in range(5):
            start = time.monotonic()
            subprocess.run(
                [sys.executable, *words],
                env=environment(api),
                cwd=tmp_path,
                check=True,
                capture_output=True,
                timeout=50,
            )
            taken.append(time.monotonic() - start)
        return min(taken)

    bare_s, status_s = best_s("-c", "pass"), best_s("-m", "lb_probe", "status")
    print(f"status costs {(status_s - bare_s) * 1000:.0f} ms above a bare interpreter")
    # About 100 ms alone; a heavy import costs more than the rest of this bound.
    assert status_s - bare_s < 1.0


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({"act": False, "adapters": []}, "say act: true"),
        ({"latched": True, "condition": "failing-over"}, "why: lb-probe explain epmm"),
        ({"blocked": ["store-not-writable"]}, "the store takes no writes"),
    ],
)
def test_next_step_is_one_that_is_not_refused(changes, step):
    shown = group(**{"assigned": None, "condition": "unassigned", **changes})
    if "blocked" in changes:
        shown["condition"] = "normal"
    assert step in next_step(shown)
