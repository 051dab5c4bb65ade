"""The metrics as a scraper sees them, and the prober's own health."""

import asyncio
import contextlib
import time
from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web
from free_ports import free_port
from prometheus_client.parser import text_string_to_metric_families
from simulated_world import ModelBalancer, ModelPublisher, ModelStore, Trap, World, pair

from lb_probe.admin.health import Health
from lb_probe.app.prober import Prober
from lb_probe.config import load
from lb_probe.controller import Ask, Controller, Setup
from lb_probe.core.failover import CONDITIONS
from lb_probe.core.model import Event, Failed, Mode, Observation, Page, Passed, Phase
from lb_probe.events.metrics import CONTENT_TYPE, Metrics, Snapshot
from lb_probe.ports import Refused
from lb_probe.store import sqlite

PATIENCE_S = 20.0
HISTOGRAMS = {"_bucket", "_sum", "_count"}
# DESIGN section 8, name by name, with the labels of each.
FAMILIES = {
    "group_condition": {"group", "condition"},
    "group_assigned": {"group", "node"},
    "group_latched": {"group"},
    "group_held": {"group"},
    "group_hold_due_timestamp_seconds": {"group"},
    "group_blocked": {"group", "reason"},
    "group_generation": {"group"},
    "group_failovers_total": {"group"},
    "group_resumes_total": {"group"},
    "group_last_change_timestamp_seconds": {"group"},
    "node_serving": {"group", "node", "role"},
    "node_mode": {"group", "node", "mode"},
    "node_certificate_expiry_timestamp_seconds": {"group", "node"},
    "probes_total": {"group", "node", "page", "result"},
    "probe_duration_seconds": {"page"},
    "probe_start_delay_seconds": set(),
    "loop_stalls_total": set(),
    "part_crashes_total": {"part"},
    "publish_attempts_total": {"group", "adapter", "result"},
    "publish_in_sync": {"group", "adapter"},
    "publish_usable": {"group", "adapter"},
    "publish_foreign_writer": {"group", "adapter"},
    "publish_last_success_timestamp_seconds": {"group", "adapter"},
    "publish_unsettled": {"group", "adapter"},
    "failover_publish_seconds": set(),
    "prober_last_probe_timestamp_seconds": set(),
    "notifications_total": {"channel", "result"},
    "notifications_waiting": {"channel"},
    "notifications_oldest_timestamp_seconds": {"channel"},
    "store_writable": set(),
    "config_last_reload_successful": set(),
    "audit_records": set(),
    "audit_head": {"hash"},
    "build_info": {"version", "python"},
}


class Scrape:
    """One exposition, parsed."""

    def __init__(self, text):
        self.text = text
        self.families = list(text_string_to_metric_families(text))
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    def __call__(self, name, **labels):
        """Return the value of one series; KeyError where there is none."""
        return self.samples[f"lb_probe_{name}", frozenset(labels.items())]

    def labels(self, name):
        """Return the label sets of a metric."""
        return [dict(labels) for found, labels in self.samples if found == f"lb_probe_{name}"]


class Counted:
    """A world whose events are counted, from the first one on."""

    def __init__(self, **changes):
        self.balancer = ModelBalancer("edge", {"a"})
        self.group = pair(confirm_s=0.5, **changes)
        self.world = World(self.group, {"edge": self.balancer}, lambda event: None)
        self.metrics = Metrics(self.world.clock.wall)
        self.metrics.know(self.group.name, self.group.names, self.group.adapters)
        self.world.emit = self.metrics.emit  # every event, each single probe included

    def scrape(self):
        views = tuple(self.world.controller.view(name) for name in self.world.controller.names)
        snapshot = Snapshot(views, self.world.controller.is_store_writable, is_config_good=True)
        return Scrape(self.metrics.render(snapshot).decode())


async def carry_out(world, verb, **more):
    """Carry out an operator's verb while time passes."""
    acting = asyncio.ensure_future(world.controller.act("epmm", Ask(verb, "ops", "why", **more)))
    while not acting.done():
        await world.advance(0.05)
    return acting.result()


def rendered(metrics, **changes):
    """Scrape counters alone."""
    snapshot = Snapshot((), is_store_writable=True, is_config_good=True)
    return Scrape(metrics.render(replace(snapshot, **changes)).decode())


@pytest.fixture
async def counted():
    found = Counted()
    await found.world.start_prober()
    yield found
    await found.world.kill_prober()


# ------------------------------------------------------------------ names and labels
async def test_every_metric_of_the_design_is_there_with_its_labels_before_anything_happened(
    counted,
):
    seen = Observation("a", Page.STATUS, 5.0, 5.1, Passed(), certificate_until=1.8e9)
    counted.metrics.emit(Event("probe.done", "epmm", {"observation": seen}))  # over https
    counted.metrics.know_channels(["ops"])
    counted.metrics.know_part("schedule")
    scrape = counted.scrape()
    for name, labels in FAMILIES.items():
        names = [name]
        if name in (
            "probe_duration_seconds",
            "probe_start_delay_seconds",
            "failover_publish_seconds",
        ):
            names = [name + part for part in HISTOGRAMS]
        for each in names:
            found = scrape.labels(each)
            assert found, each
            more = {"le"} if each.endswith("_bucket") else set()
            assert all(set(one) == labels | more for one in found), each


async def test_nothing_is_exposed_that_the_design_does_not_name(counted):
    await counted.world.advance(5)
    known = {f"lb_probe_{name.removesuffix('_total')}" for name in FAMILIES}
    assert {family.name for family in counted.scrape().families} == known
    assert all(family.documentation for family in counted.scrape().families)


async def test_every_condition_has_a_value_and_one_of_them_is_true(counted):
    await counted.world.advance(5)
    scrape = counted.scrape()
    values = {word: scrape("group_condition", group="epmm", condition=word) for word in CONDITIONS}
    assert sum(values.values()) == values["normal"] == 1
    assert len(scrape.labels("group_condition")) == len(CONDITIONS) == 17


async def test_every_mode_node_and_result_has_a_value_from_the_start(counted):
    scrape = counted.scrape()
    for node in ("a", "b"):
        values = [scrape("node_mode", group="epmm", node=node, mode=mode.value) for mode in Mode]
        assert sum(values) == 1
        for page in ("status", "hastatus"):
            assert scrape("probes_total", group="epmm", node=node, page=page, result="ok") == 0
    for result in ("ok", "refused", "unreachable"):
        labels = {"group": "epmm", "adapter": "edge", "result": result}
        assert scrape("publish_attempts_total", **labels) == 0
    assert scrape("group_failovers_total", group="epmm") == 0
    assert scrape("group_resumes_total", group="epmm") == 0


async def test_no_address_error_text_or_person_is_a_label(counted):
    world = counted.world
    await world.advance(3)
    world.nodes["a"].state = "dead"
    await world.advance(5)
    text = counted.scrape().text
    for word in ("refused\\n", "connection refused", "503", 'lb-probe"', "server-a", "http"):
        assert f'"{word}' not in text
    assert 'result="connect-refused"' in text


# ------------------------------------------------------------------ they move
async def test_failover_and_resume_are_counted_and_the_gauges_follow(counted):
    """R56: every node is probed and shown before, during and after a move."""
    world = counted.world
    await world.advance(3)
    calm = counted.scrape()
    assert calm("group_assigned", group="epmm", node="a") == 1
    assert calm("group_latched", group="epmm") == 0
    assert calm("node_serving", group="epmm", node="a", role="primary") == 1
    world.nodes["a"].state = "dead"
    await world.advance(5)
    world.nodes["b"].mode = "primary"
    await world.advance(5)
    moved = counted.scrape()
    assert moved("group_failovers_total", group="epmm") == 1
    assert moved("group_assigned", group="epmm", node="a") == 0
    assert moved("group_assigned", group="epmm", node="b") == 1
    assert moved("group_latched", group="epmm") == 1
    assert moved("group_generation", group="epmm") == calm("group_generation", group="epmm") + 1
    assert moved("group_condition", group="epmm", condition="failed-over") == 1
    assert moved("node_serving", group="epmm", node="a", role="primary") == 0
    assert moved("node_serving", group="epmm", node="b", role="secondary") == 1
    assert moved("node_mode", group="epmm", node="b", mode="primary") == 1
    wall = world.clock.wall()
    assert wall - 15 < moved("group_last_change_timestamp_seconds", group="epmm") < wall
    assert moved("failover_publish_seconds_count") == calm("failover_publish_seconds_count") + 1
    assert moved("failover_publish_seconds_sum") < 1
    world.nodes["a"].state = "up"
    world.nodes["b"].mode = "standby"
    await world.advance(5)
    await carry_out(world, "resume", attest={"synced": "Completed 10:42Z"})
    back = counted.scrape()
    assert back("group_resumes_total", group="epmm") == 1
    assert back("group_failovers_total", group="epmm") == 1
    assert back("group_latched", group="epmm") == 0


async def test_a_failover_by_hand_is_counted_as_one_by_the_rule_is(counted):
    world = counted.world
    await world.advance(3)
    await carry_out(world, "failover")
    assert counted.scrape()("group_failovers_total", group="epmm") == 1


def test_each_part_that_broke_is_counted_from_nothing_on():
    metrics = Metrics(lambda: 0.0)
    metrics.know_part("schedule")
    assert rendered(metrics)("part_crashes_total", part="schedule") == 0
    metrics.emit(Event("part.crashed", fields={"part": "schedule", "detail": "OSError: x"}))
    assert rendered(metrics)("part_crashes_total", part="schedule") == 1


async def test_hold_is_shown_while_it_lasts(counted):
    world = counted.world
    await world.advance(3)
    await carry_out(world, "hold", hold_s=60.0)
    assert counted.scrape()("group_held", group="epmm") == 1
    await carry_out(world, "release")
    assert counted.scrape()("group_held", group="epmm") == 0


def test_each_probe_is_counted_with_its_result_and_its_duration():
    metrics = Metrics(lambda: 0.0)

    def probe(outcome, seconds):
        seen = Observation("a", Page.STATUS, 5.0, 5.0 + seconds, outcome)
        metrics.emit(Event("probe.done", "epmm", {"observation": seen}))

    probe(Passed(), 0.004)
    probe(Passed(), 0.2)
    for phase in Phase:
        probe(Failed(phase, "text that is no label"), 0.3)
    scrape = rendered(metrics)
    labels = {"group": "epmm", "node": "a", "page": "status"}
    assert scrape("probes_total", **labels, result="ok") == 2
    assert all(scrape("probes_total", **labels, result=phase.value) == 1 for phase in Phase)
    assert scrape("probe_duration_seconds_count", page="status") == 2 + len(Phase)
    assert scrape("probe_duration_seconds_bucket", page="status", le="0.005") == 1
    assert scrape("probe_duration_seconds_bucket", page="status", le="0.25") == 2


def test_expiry_of_the_certificate_shown_last_stays_for_nodes_that_have_one():
    metrics = Metrics(lambda: 0.0)

    def probe(node, until, outcome=None):
        outcome = outcome or Passed()
        seen = Observation(node, Page.STATUS, 5.0, 5.1, outcome, certificate_until=until)
        metrics.emit(Event("probe.done", "epmm", {"observation": seen}))

    name = "node_certificate_expiry_timestamp_seconds"
    assert rendered(metrics).labels(name) == []
    probe("a", 1_800_000_000.0)
    probe("b", None)
    probe("a", None, Failed(Phase.CONNECT_REFUSED, "connection refused"))
    scrape = rendered(metrics)
    assert scrape.labels(name) == [{"group": "epmm", "node": "a"}]
    assert scrape(name, group="epmm", node="a") == 1_800_000_000.0
    probe("a", 1_900_000_000.5)
    assert rendered(metrics)(name, group="epmm", node="a") == 1_900_000_000.5


async def test_each_stall_of_the_loop_is_counted(counted):
    world = counted.world
    await world.advance(3)
    assert counted.scrape()("loop_stalls_total") == 0
    world.clock.now += 5.0
    await world.advance(1)
    assert counted.scrape()("loop_stalls_total") == 1


def test_label_with_any_character_is_read_back_as_it_was():
    metrics, name = Metrics(lambda: 0.0), 'a "b" \\n \\ \n ü'
    metrics.know(name, [name], [])
    assert rendered(metrics)("group_failovers_total", group=name) == 0


async def test_lines_that_were_kept_follow_every_change_of_what_they_show(counted):
    """What is rendered again and again is what another renderer says that never saw the group."""
    world = counted.world
    steps = [
        lambda: setattr(world.nodes["b"], "mode", "primary"),
        lambda: setattr(world.nodes["b"], "mode", "standby"),
        lambda: setattr(counted.balancer, "is_up", False),
        lambda: setattr(counted.balancer, "is_up", True),
        lambda: setattr(world.nodes["a"], "state", "dead"),
        lambda: setattr(world.nodes["b"], "mode", "primary"),
        lambda: setattr(world.nodes["a"], "state", "up"),
        lambda: setattr(counted.balancer, "chosen", {"a"}),
    ]
    for step in steps:
        step()
        for _ in range(8):
            await world.advance(0.5)
            kept, fresh = counted.scrape(), Metrics(world.clock.wall)
            fresh._last_success = counted.metrics._last_success
            views = tuple(world.controller.view(name) for name in world.controller.names)
            snapshot = Snapshot(views, world.controller.is_store_writable, is_config_good=True)
            anew = Scrape(fresh.render(snapshot).decode())
            whose = ("lb_probe_group_", "lb_probe_node_", "lb_probe_publish_")
            gauges = [key for key in anew.samples if key[0].startswith(whose)]
            assert len(gauges) > 30
            assert {key: kept.samples[key] for key in gauges} == {
                key: anew.samples[key] for key in gauges
            }
    for verb in ("hold", "release", "ack", "swap-roles"):
        with contextlib.suppress(Refused):
            await carry_out(world, verb, hold_s=60.0)
        scrape = counted.scrape()
        saved = world.controller.view("epmm").saved
        assert scrape("group_generation", group="epmm") == saved.generation
        assert scrape("group_held", group="epmm") == float(saved.hold is not None)


async def test_views_of_all_groups_are_those_of_each_one(counted):
    world = counted.world
    await world.advance(5)
    names = world.controller.names
    assert world.controller.views() == tuple(world.controller.view(name) for name in names)


def test_late_start_is_counted():
    metrics = Metrics(lambda: 0.0)
    metrics.started_late(0.03)
    scrape = rendered(metrics)
    assert scrape("probe_start_delay_seconds_bucket", le="0.025") == 0
    assert scrape("probe_start_delay_seconds_bucket", le="0.05") == 1


async def test_publications_are_counted_by_result(counted):
    world, balancer = counted.world, counted.balancer
    await world.advance(3)
    assert counted.scrape()("publish_in_sync", group="epmm", adapter="edge") == 1
    balancer.is_up = False
    await world.advance(3)
    down = counted.scrape()
    labels = {"group": "epmm", "adapter": "edge"}
    assert down("publish_in_sync", **labels) == 0
    assert down("publish_attempts_total", **labels, result="unreachable") >= 1
    assert down("publish_last_success_timestamp_seconds", **labels) == 0
    balancer.is_up = True
    balancer.chosen = {"b"}
    balancer.is_deaf = True
    await world.advance(2)
    assert counted.scrape()("publish_attempts_total", **labels, result="refused") >= 1
    balancer.is_deaf = False
    await world.advance(2)
    done = counted.scrape()
    assert done("publish_attempts_total", **labels, result="ok") == 1
    assert done("publish_in_sync", **labels) == 1
    at = done("publish_last_success_timestamp_seconds", **labels)
    assert world.clock.wall() - 3 < at <= world.clock.wall()


async def test_store_that_takes_no_writes_is_shown(counted):
    world = counted.world
    await world.advance(3)
    assert counted.scrape()("store_writable") == 1
    world.store.is_full = True
    world.nodes["a"].state = "dead"
    await world.advance(8)
    assert counted.scrape()("store_writable") == 0
    assert counted.scrape()("group_failovers_total", group="epmm") == 0


def test_bad_configuration_is_shown():
    metrics = Metrics(lambda: 0.0)
    scrape = rendered(metrics, is_config_good=False)
    assert scrape("config_last_reload_successful") == 0
    assert scrape.labels("build_info")[0]["version"]


# ------------------------------------------------------------------ on a listener
@contextlib.asynccontextmanager
async def served(application):
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession(url) as session:
            yield session
    finally:
        await runner.cleanup()


def health(take=lambda: lambda: b"", trouble="", unready=""):
    async def taken():
        return take()

    return Health(taken, CONTENT_TYPE, trouble=lambda: trouble, unready=lambda: unready)


@pytest.mark.parametrize(
    ("trouble", "unready", "codes"),
    [
        ("", "", {"/livez": 200, "/readyz": 200}),
        ("", "first cycle not done", {"/livez": 200, "/readyz": 503}),
        ("no probe ended for 11s", "", {"/livez": 503, "/readyz": 503}),
    ],
)
async def test_health_says_what_is_wrong_with_its_code(trouble, unready, codes):
    async with served(health(trouble=trouble, unready=unready).application()) as session:
        for path, code in codes.items():
            async with session.get(path) as answer:
                assert answer.status == code
                text = await answer.text()
            assert text == f"{trouble or unready if code == 503 else 'ok'}\n"
            assert answer.headers["Cache-Control"] == "no-store"
            assert "Server" not in answer.headers


async def test_health_listener_serves_nothing_else(counted):
    async with served(health().application()) as session:
        for path in ("/", "/api/v1/groups", "/status/status.html"):
            async with session.get(path) as answer:
                assert answer.status == 404
        async with session.post("/metrics") as answer:
            assert answer.status == 405


async def test_scrape_has_the_content_type_of_its_format(counted):
    views = tuple(counted.world.controller.view(n) for n in counted.world.controller.names)
    snapshot = Snapshot(views, is_store_writable=True, is_config_good=True)

    def take():
        return lambda: counted.metrics.render(snapshot)

    async with served(health(take=take).application()) as session:
        async with session.get("/metrics") as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"] == CONTENT_TYPE
            assert "Server" not in answer.headers
            scrape = Scrape(await answer.text())
        async with session.head("/metrics") as answer:
            assert answer.status == 200
    assert scrape("group_generation", group="epmm") >= 1


class Stalls:
    """Measures for how long the loop was away."""

    def __init__(self):
        self.longest_s = 0.0

    async def watch(self):
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            self.longest_s = max(self.longest_s, time.perf_counter() - before)


async def test_scrape_of_a_thousand_groups_does_not_hold_up_the_loop(capsys):
    names = [f"group-{i}" for i in range(1000)]
    world = World(pair(), {}, lambda event: None)
    metrics = Metrics(world.clock.wall)

    class Sink:
        emit = metrics.emit

    setups = []
    for name in names:
        group = pair(name=name)
        balancer = ModelBalancer("edge", {"a"})
        setups.append(Setup(group, (ModelPublisher(balancer, Trap()),)))
        metrics.know(name, group.names, group.adapters)
    controller = Controller(setups, ModelStore(), world.clock, Sink())
    await controller.start()
    for name in names:
        for node in ("a", "b"):
            for page in Page:
                now = world.clock.now
                controller.observe(name, Observation(node, page, now, now, Passed(Mode.STANDBY)))
    rendering = []

    def take():
        began = time.perf_counter()
        snapshot = Snapshot(controller.views(), is_store_writable=True, is_config_good=True)
        taken = time.perf_counter() - began

        def render():
            began, busy = time.perf_counter(), time.thread_time()
            text = metrics.render(snapshot)
            spent = time.perf_counter() - began, time.thread_time() - busy
            rendering.append((taken, *spent))
            return text

        return render

    async with served(health(take=take).application()) as session:
        stalls = Stalls()
        watching = asyncio.ensure_future(stalls.watch())
        for _ in range(2):
            async with session.get("/metrics") as answer:
                raw = await answer.read()
        watching.cancel()
    scrape = Scrape(raw.decode())
    assert len(scrape.labels("group_generation")) == 1000
    (taken, _, first), (_, rendered, again) = rendering
    with capsys.disabled():
        print(
            f"\n1000 groups, {len(scrape.samples)} series, {len(raw) / 1e6:.1f} MB: snapshot"
            f" {taken:.3f} s; rendering {first:.3f} s CPU, again {again:.3f} s CPU in"
            f" {rendered:.3f} s; longest stall {stalls.longest_s:.3f} s"
        )
    assert stalls.longest_s < 1.0  # of a loaded machine: tests/bench/scrape.py has the figures
    assert again < 0.8 * first  # half on a quiet machine: nothing changed, its lines were kept


async def test_scrapes_are_rendered_one_at_a_time():
    running, most = 0, 0

    def take():
        def render():
            nonlocal running, most
            running += 1
            most = max(most, running)
            time.sleep(0.02)
            running -= 1
            return b""

        return render

    async with served(health(take=take).application()) as session:

        async def scrape():
            async with session.get("/metrics") as answer:
                assert answer.status == 200

        await asyncio.gather(*(scrape() for _ in range(5)))
    assert most == 1


# ------------------------------------------------------------------ as the prober wires it
CONFIG = """
version: 1
store: sqlite:state.db
metrics: {{listen: "127.0.0.1:{metrics}"}}
groups:
  - name: epmm
    act: true
    adapters: []
    probe: {{interval: {interval}, recheck: 50ms, timeout: {timeout}, max_age: 90s}}
    nodes:
      - {{name: a, role: primary, url: "http://127.0.0.1:{a}"}}
      - {{name: b, role: secondary, url: "http://127.0.0.1:{b}"}}
"""


class Slow:
    """A node whose pages are answered only after somebody says so."""

    def __init__(self):
        self.may_answer = asyncio.Event()

    def application(self):
        app = web.Application()
        app.router.add_get("/{path:.*}", self.answer)
        return app

    async def answer(self, request):
        await self.may_answer.wait()
        raise web.HTTPServiceUnavailable


@contextlib.asynccontextmanager
async def prober(folder, interval="50ms", timeout="30s"):
    """The prober's parts as app wires them, over one slow node."""
    node, metrics = Slow(), free_port()
    async with served(node.application()) as one, served(node.application()) as two:
        file = folder / "probes.yaml"
        ports = {"a": one._base_url.port, "b": two._base_url.port, "metrics": metrics}
        file.write_text(CONFIG.format(interval=interval, timeout=timeout, **ports))
        sqlite.init(folder / "state.db")
        config = load(file, as_="prober")
        parts = Prober(config, frozenset())
        stop = asyncio.Event()

        async def word():
            await stop.wait()
            return "stop"

        running = asyncio.ensure_future(parts.run(word))
        try:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{metrics}") as own:
                yield parts, node, own
        finally:
            node.may_answer.set()
            stop.set()
            await running


async def code_of(session, path):
    try:
        async with session.get(path) as answer:
            return answer.status, (await answer.text()).strip()
    except aiohttp.ClientConnectionError:
        return 0, ""


async def until_code(session, path, code):
    end = time.monotonic() + PATIENCE_S
    while (found := await code_of(session, path))[0] != code:
        assert time.monotonic() < end, f"{path} answers {found}"
        await asyncio.sleep(0.02)
    return found[1]


async def test_prober_is_ready_only_after_its_first_cycle(folder):
    async with prober(folder) as (_, node, session):
        assert await until_code(session, "/livez", 200) == "ok"
        assert await code_of(session, "/readyz") == (503, "first cycle not done")
        node.may_answer.set()
        assert await until_code(session, "/readyz", 200) == "ok"
        async with session.get("/metrics") as answer:
            scrape = Scrape(await answer.text())
        assert scrape("probes_total", group="epmm", node="a", page="status", result="status") >= 1
        assert scrape("store_writable") == 1


class Later:
    """A clock that is ahead of the real one."""

    def __init__(self, clock, seconds):
        self._clock = clock
        self._seconds = seconds

    def monotonic(self):
        return self._clock.monotonic() + self._seconds


async def test_prober_whose_schedule_is_silent_is_not_alive(folder):
    async with prober(folder, interval="5s", timeout="1s") as (parts, _, session):
        await until_code(session, "/livez", 200)
        clock = parts._clock
        parts._clock = Later(clock, 12.0)  # two rounds of 6 s are no silence yet
        assert await code_of(session, "/livez") == (200, "ok")
        parts._clock = Later(clock, 40.0)
        code, text = await code_of(session, "/livez")
        assert code == 503
        assert text.startswith("no probe ended for ")
        assert (await code_of(session, "/readyz"))[0] == 503
        parts._clock = clock
