"""What people are told, as somebody reads it who was woken by it; and what they are not (R97).

A file of tests/golden/told is a story (commands of `test_scenarios`), `----`, and every message, in
order, with the seconds since the story began. `pytest --rewrite` writes the messages anew; read the
diff before committing it.
"""

import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from test_scenarios import Story

from lb_probe.core.failover import CONDITIONS
from lb_probe.core.matters import CONDITIONS as TOLD_CONDITIONS
from lb_probe.core.notice import CLASSES, lines_of
from lb_probe.core.pool_view import _REASONS as POOL_CONDITIONS
from lb_probe.events.outbox import Trouble
from lb_probe.events.teller import Teller
from lb_probe.ports import Record, StoreError

FOLDER = Path(__file__).parent / "golden" / "told"
GOLDENS = sorted(FOLDER.glob("*.txt"))
# Seconds long, or told as the move that is on record, or of the prober as a whole.
UNTOLD = {"normal", "confirming", "failing-over", "failed-over", "prober-isolated"}
UNTOLD_POOL = {"all-in", "some-out"}


class Paper:
    """An outbox that keeps everything; what it remembers survives a prober, as a disk does."""

    def __init__(self):
        self.id, self.unusable, self.fault = "paper", "", ""
        self.memory, self.notices, self.keys = {}, [], set()
        self.is_lost = False
        self.trouble = None
        self.is_proven = True

    async def keep(self, notices, memory):
        if self.is_lost:
            return
        self.memory |= memory
        fresh = [n for n in notices if n.key not in self.keys]
        self.keys |= {n.key for n in fresh}
        self.notices += fresh

    def troubles(self):
        return [self.trouble] if self.trouble else []

    def unproven(self):
        return [] if self.is_proven else ["ops"]


class Journal:
    """The history of a modelled store, by number."""

    id = "store-of-the-story"

    def __init__(self, store):
        self.store = store
        self.history = store.history
        self.is_broken = False

    async def after(self, number, kinds, limit):
        if self.is_broken:
            raise StoreError("cannot be read")
        every = await self.store.history(None, 10**6)
        found = [r for r in every if r.number > number and r.kind in kinds][:limit]
        return found, found[-1].number if len(found) == limit else len(every)


class Board:
    """The groups as `Groups` shows them."""

    def __init__(self, controller):
        self.controller = controller
        self.names = controller.names

    @property
    def is_store_writable(self):
        return self.controller.is_store_writable

    @property
    def impairment(self):
        return self.controller.impairment

    def view(self, name):
        return self.controller.view(name)

    def resume_gates(self, name):
        return self.controller.resume_gates(name)


class ToldStory(Story):
    """A story whose prober tells people; `wait` lets it look around each second."""

    def __init__(self):
        super().__init__()
        self.paper = Paper()
        self.teller = None

    def hear(self, event):
        if self.teller is not None:
            self.teller.emit(event)

    async def prober(self, word, step=""):
        if word == "killed":
            self.teller = None
        if not word.startswith("starts"):
            await super().prober(word, step)
            return
        records = await self.world.store.history(None, 1)
        self.awoke, self.last_life = self.world.clock.wall(), records[-1] if records else None
        await super().prober(word, step)
        if self.world.controller is not None:
            self.teller = self.told_by()
            self.teller._began_wall = self.awoke  # it is opened before anything is decided
            await self.teller.open()
            self.teller._last_life = self.last_life

    def told_by(self):
        journal = Journal(self.world.store)
        board = Board(self.world.controller)
        return Teller(board, journal, self.paper, self.world.clock, remind_s=43_200.0)

    async def start(self, *words):
        self.paper.memory["cursor"] = f"{Journal.id} 0"
        await super().start(*words)

    async def wait(self, seconds):
        left = float(seconds.removesuffix("s"))
        if left > 3600.0:  # days: nothing happens but time
            self.world.clock.now += left - 60.0
            left = 60.0
        while left > 0:
            await self.world.advance(min(1.0, left))
            left -= 1.0
            if self.teller is not None:
                await self.teller.turn()


async def told(script):
    """Play a story and return its messages."""
    random.seed(0)
    story = ToldStory()
    try:
        await story.play(script)
        return story, story.paper.notices
    finally:
        if story.world is not None:
            await story.world.kill_prober()


def written(story, notices):
    offset = story.world.clock.offset + story.began
    blocks = []
    for notice in notices:
        at = notice.at_wall - offset
        head = f"{at:9.1f}  {notice.event_class}, {notice.gravity.value}, {notice.stage.value}"
        lines = lines_of(replace(notice, title=""))[1:]
        blocks.append("\n".join([head, f"  {notice.title}", *(f"  {line}" for line in lines)]))
    return "\n\n".join(blocks) or "nothing"


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
async def test_what_people_are_told(path, request):
    script = path.read_text().split("\n----")[0].strip()
    story, notices = await told(script)
    actual = f"{script}\n----\n{written(story, notices)}\n"
    if request.config.getoption("--rewrite"):
        path.write_text(actual)
    assert actual == path.read_text()


def test_every_condition_is_told_or_left_out_on_purpose():
    """R97; a new condition that nobody is told of does not slip in."""
    assert set(CONDITIONS) | set(POOL_CONDITIONS) == (set(TOLD_CONDITIONS) | UNTOLD | UNTOLD_POOL)
    assert not set(TOLD_CONDITIONS) & (UNTOLD | UNTOLD_POOL)


def test_the_stories_tell_every_class_that_a_prober_tells():
    stories = "\n".join(path.read_text() for path in GOLDENS)
    heads = set(re.findall(r"^ +-?[\d.]+  ([a-z-]+), ", stories, re.MULTILINE))
    theirs = {name for name, row in CLASSES.items() if row.by == "prober"} - {"test"}
    assert theirs - heads == {"certificate", "node-out"}  # in tests of their own


def test_every_heading_that_a_message_names_is_in_the_runbook():
    """The link leads somewhere at three in the morning."""
    runbook = Path(__file__).parents[1] / "docs" / "runbook.md"
    heads = re.findall(r"^#+ (.+)$", runbook.read_text(), re.MULTILINE)
    anchors = {head.lower().replace(" ", "-") for head in heads}
    named = {row.runbook for row in CLASSES.values()}
    named |= {row.runbook for row in TOLD_CONDITIONS.values()}
    named |= {"foreign-writer", "load-balancer-holds-the-node-down", "store-not-writable"}
    named |= {
        "prober-isolated",
        "prober-impaired",
        "reload-failed",
        "move-not-settled",
        "users-left-behind",
    }
    assert named - {""} <= anchors


async def test_one_killed_between_save_and_message_tells_it_in_its_next_life():
    """SIGKILL between save and send: the cursor goes with the messages, not before them."""
    story = ToldStory()
    try:
        await story.play("start\nnode a dies")
        story.paper.is_lost = True  # it never got to write anything down
        await story.play("wait 20\nprober killed")
        assert story.paper.notices == []
        story.paper.is_lost = False
        await story.play("prober starts\nwait 20")
        titles = [n.title for n in story.paper.notices if n.event_class == "failed-over"]
        assert titles == ["epmm: failed over from a to b by itself"]
        await story.play("prober killed\nprober starts\nwait 20")
        assert len([n for n in story.paper.notices if n.event_class == "failed-over"]) == 1
    finally:
        await story.world.kill_prober()


async def test_a_channel_takes_messages_again_when_it_has_taken_one():
    """Not because the prober was restarted, or the file read anew: that says nothing of it."""
    story = ToldStory()
    paper = story.paper
    try:
        await story.play("start\nwait 5")
        paper.is_proven = False
        paper.trouble = Trouble("ops", story.world.clock.wall(), 3, "no route")
        await story.play("wait 310\nprober killed\nprober starts")
        paper.trouble = None  # nobody has tried yet
        await story.play("wait 200")
        titles = [n.title for n in paper.notices if "channel" in n.title]
        assert titles == ["channel ops takes no messages"]
        paper.is_proven = True
        await story.play("wait 100")
        titles = [n.title for n in paper.notices if "channel" in n.title]
        assert titles[1:] == ["channel ops takes messages again, or is gone from probes.yaml"]
    finally:
        await story.world.kill_prober()


async def test_an_older_store_is_followed_from_its_end():
    story = ToldStory()
    try:
        await story.play("start\nwait 5")
        story.paper.memory["cursor"] = f"{Journal.id} 999"
        teller = story.told_by()
        await teller.open()
        newest = len(story.world.store.records)
        assert story.paper.memory["cursor"] == f"{Journal.id} {newest}"
        story.paper.memory["cursor"] = "another-store 1"
        await story.told_by().open()
        assert story.paper.memory["cursor"] == f"{Journal.id} {newest}"
    finally:
        await story.world.kill_prober()


async def test_a_history_that_cannot_be_read_is_read_later():
    story = ToldStory()
    try:
        await story.play("start\nwait 3")
        story.teller._journal.is_broken = True
        await story.play("node a dies\nwait 20")
        assert not [n for n in story.paper.notices if n.event_class == "failed-over"]
        story.teller._journal.is_broken = False
        await story.play("wait 2")
        assert [n for n in story.paper.notices if n.event_class == "failed-over"]
    finally:
        await story.world.kill_prober()


async def test_a_record_that_cannot_be_read_is_told_as_it_is_and_silences_nothing():
    story = ToldStory()
    try:
        await story.play("start\nwait 3")
        odd = Record("epmm", "failover", story.world.clock.wall() - 60.0, 2, None)
        story.world.store.records.append(odd)
        await story.play("node a dies\nwait 20")
        titles = [n.title for n in story.paper.notices if n.event_class == "failed-over"]
        assert titles == [
            "epmm: failover is on record, and cannot be put in words",
            "epmm: failed over from a to b by itself",
        ]
    finally:
        await story.world.kill_prober()
