"""A program of the operator's: its lines, its last words, how it ended, and what it may cost."""

import os
import signal
import time

import pytest

from lb_probe.program import LINE_CHARS, Program


async def lines_of(code: str, timeout_s: float = 20.0):
    lines: list[str] = []
    ended = await Program(("sh", "-c", code), timeout_s).run(on_line=lines.append)
    return ended, lines


async def test_lines_come_one_by_one_and_safe_to_print():
    ended, lines = await lines_of(
        "printf 'one\\ntw'; sleep 0.1; printf 'o\\n\\033[2J\\377\\r\\n\\nlast'"
    )
    assert lines == ["one", "two", "?[2J\N{REPLACEMENT CHARACTER}", "", "last"]
    assert (ended.status, ended.fault, ended.last_words) == (0, "", "last")


@pytest.mark.parametrize(
    ("code", "fault", "said"),
    [
        ("echo fine; echo broken >&2; exit 3", "it ended with exit status 3", "broken"),
        ("echo half; kill -SEGV $$", f"it ended by signal {int(signal.SIGSEGV)}", "half"),
        ("echo begun; sleep 600", "it did not end in time and was killed", "begun"),
    ],
)
async def test_an_end_is_told_in_words_with_the_last_line(code, fault, said):
    ended, _ = await lines_of(code, timeout_s=0.3 if "sleep" in code else 20)
    assert (ended.fault, ended.last_words) == (fault, said)


async def test_a_flood_is_thinned_out_and_its_end_is_seen():
    code = "yes 0123456789 | head -c 30000000; echo; echo done"
    started = time.process_time()
    ended, lines = await lines_of(code)
    assert time.process_time() - started < 5
    assert ended.is_cut
    assert lines[-1] == "done"
    assert 10_000 <= len(lines) < 30_000


async def test_a_line_without_end_is_cut():
    _, lines = await lines_of("head -c 200000 /dev/zero | tr '\\0' x; echo; echo after")
    assert lines[0] == "x" * LINE_CHARS
    assert lines[-1] == "after"


async def test_our_own_settings_stay_ours(monkeypatch):
    monkeypatch.setenv("LB_PROBE_TOKEN", "secret")
    _, lines = await lines_of("env")
    assert not any(line.startswith("LB_PROBE_") for line in lines)
    assert f"PATH={os.environ['PATH']}" in lines
