"""A program of the operator's own as a channel: JSON in, no shell, an end in time."""

import json
import sys

import pytest
from hand_channel import notice, route
from hand_clock import settled

from lb_probe.events.command import Command
from lb_probe.ports import Letter, NotDelivered

EVIL = "$(touch owned); `touch owned` | --option\r\nX"


def letter(**more):
    found = notice("k1", "failed-over", why=EVIL, **more)
    return Letter((found,), found.key, "prober on here")


def program(text, tmp_path, *words, timeout_s=5.0):
    file = tmp_path / "program.py"
    file.write_text(text)
    return Command("siren", [sys.executable, str(file), *words], timeout_s)


async def refused(channel):
    with pytest.raises(NotDelivered) as caught:
        await channel.send(letter())
    return caught.value


async def test_a_program_gets_the_letter_on_its_input_and_nothing_as_an_argument(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("LB_PROBE_TOKEN", "s3cret")
    out = tmp_path / "out.json"
    text = (
        "import json, os, sys\n"
        f"seen = [sys.argv[1:], json.load(sys.stdin), [k for k in os.environ if 'LB_PROBE' in k]]\n"
        f"open({str(out)!r}, 'w').write(json.dumps(seen))\n"
    )
    await program(text, tmp_path, "+4900000").send(letter())
    words, told, ours = json.loads(out.read_text())
    assert (words, ours) == (["+4900000"], [])
    assert told["notices"][0]["why"] == "$(touch owned); `touch owned` | --option X"
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("end", "is_final", "words"),
    [
        ("sys.exit(1)", False, "exit status 1"),
        ("sys.exit(65)", True, "exit status 65"),
        ("os.kill(os.getpid(), 9)", False, "signal 9"),
        ("time.sleep(60)", False, "did not end within 0.5s and was killed"),
    ],
)
async def test_what_its_end_means(tmp_path, end, is_final, words):
    says = "print('gateway\\x1b[31m busy', file=sys.stderr, flush=True)"
    text = f"import os, sys, time\n{says}\n{end}\n"
    error = await refused(program(text, tmp_path, timeout_s=0.5))
    assert (error.is_final, error.is_busy) == (is_final, not is_final)
    assert words in str(error)
    assert "gateway [31m busy" in str(error)


async def test_one_that_is_not_there_is_said_and_tried_again(tmp_path, running, clock, events):
    file = tmp_path / "later"
    channel = Command("siren", [str(file)], 5.0)
    async with running(route(channel)) as box:
        await box.put(notice("a"))
        await settled(clock, lambda: events.named("notify.failed"))
        assert "cannot be run: No such file" in events.named("notify.failed")[0]["detail"]
        file.write_text("#!/bin/sh\ncat > /dev/null\n")
        file.chmod(0o755)
        await settled(clock, lambda: box.waiting() == {"siren": 0})
