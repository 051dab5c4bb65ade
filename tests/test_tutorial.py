"""Every line of docs/tutorial.md, played in its order on the demo's own pair."""

import re
import shlex
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from lb_probe.cli import cli

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"
STEP = re.compile(r"<!-- play: (.*?) -->|^```(sh)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PATIENCE_S = 30.0


class Play:
    """A reader who does what the page says."""

    def __init__(self, demo):
        self.demo = demo
        self.wanted_code = 0
        self.said = ""

    def until(self, is_true, what):
        end = time.monotonic() + PATIENCE_S
        while not is_true():
            assert time.monotonic() < end, f"waited in vain until {what}; the page says {self.said}"
            time.sleep(0.05)

    def do(self, step):
        verb, _, rest = step.partition(" ")
        if verb == "kill":
            self.demo.kill(rest)
        elif verb == "start":
            self.demo.start(rest)
            if rest == "prober":
                self.until(self.demo.is_answering, "the prober answers")
        elif verb == "until":
            self.until(lambda: self.demo.group()["condition"] == rest, f"it is {rest}")
        elif verb == "traffic":
            self.until(lambda: self.demo.group()["assigned"] == rest, f"traffic is on {rest}")
        elif verb == "exit":
            self.wanted_code = int(rest)
        elif step == "wait for both":
            self.until(lambda: self._modes() == ["primary", "standby"], "the nodes say so")
            self.until(lambda: self.demo.group()["nodes"][0]["serving"] == "ok", "node-a serves")
        else:
            name, text = re.fullmatch(r"write (\S+) with (.*)", step).groups()
            found = re.sub(r"confirm: \S+", text, self.demo.config.read_text())
            (self.demo.folder / name).write_text(found)

    def _modes(self):
        return [node["mode"] for node in self.demo.group()["nodes"]]

    def type(self, lines):
        environ = {"LB_PROBE_CONFIG": str(self.demo.config), "LB_PROBE_URL": None}
        self.said = ""
        for line in lines.splitlines():
            program, *words = shlex.split(line)
            assert program == "lb-probe"
            done = CliRunner().invoke(cli, words, env=environ, prog_name="lb-probe")
            end = time.monotonic() + PATIENCE_S
            # A probe that was late on a busy machine closes a gate: whoever reads types it again.
            while done.exit_code in (5, 6) and self.wanted_code == 0 and time.monotonic() < end:
                done = CliRunner().invoke(cli, words, env=environ, prog_name="lb-probe")
            self.said += done.output
            assert done.exit_code == self.wanted_code, f"{line}: {self.said}"
        self.wanted_code = 0

    def see(self, lines):
        for line in lines.splitlines():
            part = " ".join(line.removesuffix("...").split())
            assert part in " ".join(self.said.split()), f"the page shows {part!r}: {self.said}"


@pytest.mark.timeout(120)
def test_every_line_of_the_tutorial_does_what_the_page_says(stand, monkeypatch):
    play = Play(stand())
    monkeypatch.chdir(play.demo.folder)
    for step, is_shell, block in STEP.findall(PAGE.read_text()):
        if step:
            play.do(step)
        elif is_shell:
            play.type(block)
        else:
            play.see(block)
