"""The printed configurations, in front of real HAProxys."""

import asyncio
import contextlib
import re
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import click.testing
import pytest

from lb_probe.adapters.haproxy import HaproxyMap, HaproxyServers, RuntimeApi, UnfinishedError
from lb_probe.advice import haproxy_rules_file
from lb_probe.advice.haproxy_config import adapter_yaml, config_text, map_text
from lb_probe.advice.haproxy_lines import Choices
from lb_probe.advice.haproxy_pages import pages_text
from lb_probe.cli import cli
from lb_probe.config import GroupConfig, load
from lb_probe.config.model import HaproxyAdapter
from lb_probe.ports import Unreachable

MAP = """
- type: haproxy
  name: edge
  socket: {folder}/admin.sock
  map_file: {folder}/active.map
  key: epmm
  nodes: {{epmm-a: a, epmm-b: b}}
"""
SERVER = """
- type: haproxy
  name: edge
  socket: {folder}/admin.sock
  backend: epmm
  nodes: {{epmm-a: a, epmm-b: b}}
"""


def adapter_of(group: GroupConfig) -> HaproxyAdapter:
    (adapter,) = group.adapters
    assert isinstance(adapter, HaproxyAdapter)
    return adapter


def is_refused(answer: str) -> bool:
    return answer in {"503", "closed"}


@pytest.fixture
def pair(haproxy, nodes, make_group) -> Callable[..., GroupConfig]:
    """The two running nodes as a group with one adapter."""

    def make(adapter: str, **more: str) -> GroupConfig:
        a, b = (f"http://127.0.0.1:{node.port}" for node in nodes)
        return make_group(adapter.format(folder=haproxy.folder), a=a, b=b, **more)

    return make


@pytest.fixture
def choices(haproxy) -> Choices:
    return Choices(listen=(str(haproxy.front),))


# ------------------------------------------------------------------ style map
@pytest.mark.parametrize("mode", ["http", "tcp"])
async def test_style_map_serves_nobody_before_the_first_word(haproxy, nodes, pair, mode):
    group = pair(MAP)
    (haproxy.folder / "active.map").write_text(map_text(adapter_of(group)))
    text = config_text(group, adapter_of(group), Choices((str(haproxy.front),), mode))
    haproxy.check(text)
    await haproxy.start(text)

    assert all([is_refused(await haproxy.ask_service()) for _ in range(5)])
    assert [node.asked for node in nodes] == [0, 0]


async def test_style_map_sends_to_exactly_the_node_that_was_published(
    haproxy, nodes, pair, choices
):
    group = pair(MAP)
    map_file = haproxy.folder / "active.map"
    map_file.write_text(map_text(adapter_of(group)))
    await haproxy.start(config_text(group, adapter_of(group), choices))
    publisher = map_publisher(haproxy, group)

    for node in ("a", "b", "a"):
        await publisher.publish(f"epmm-{node}")
        assert [await haproxy.ask_service() for _ in range(5)] == [node] * 5
        assert (await publisher.read_back()).node == f"epmm-{node}"
        assert f"epmm {node}\n" in map_file.read_text()
    await publisher.publish_nobody()
    assert is_refused(await haproxy.ask_service())


def map_publisher(haproxy, group: GroupConfig, *, writes: bool = True) -> HaproxyMap:
    adapter = adapter_of(group)
    assert adapter.map_file
    return HaproxyMap(
        adapter.name,
        haproxy.admin,
        adapter.map_file,
        adapter.key,
        adapter.nodes,
        local_file=adapter.local_file if writes else None,
    )


async def test_style_map_never_replaces_a_dead_node_by_the_other(
    haproxy, nodes, pair, choices, eventually
):
    a, b = nodes
    map_file = haproxy.folder / "active.map"
    group = pair(MAP + "  check_interval: 50ms\n")
    map_file.write_text("epmm a\n")
    dead = config_text(group, adapter_of(group), choices).replace(f":{a.port} ", ":1 ")
    await haproxy.start(dead)

    async def is_down() -> bool:
        return ",DOWN," in haproxy.tell("show stat pool_a 4 -1")

    await eventually(is_down)
    assert [await haproxy.ask_service() for _ in range(3)] == ["503"] * 3
    assert b.asked == 0


@pytest.mark.parametrize("writes", [True, False])
async def test_style_map_killed_while_latched_never_asks_the_old_node(
    haproxy, nodes, pair, choices, writes
):
    """With the file written a restart goes on at b; without it, nobody is served until told."""
    a, _ = nodes
    group = pair(MAP)
    (haproxy.folder / "active.map").write_text(map_text(adapter_of(group)))
    await haproxy.start(config_text(group, adapter_of(group), choices))
    publisher = map_publisher(haproxy, group, writes=writes)
    await publisher.publish("epmm-b")

    async with hammered(haproxy) as answers:
        haproxy.kill()
        await haproxy.start()
        restarted = [await haproxy.ask_service() for _ in range(10)]
        assert restarted == (["b"] if writes else ["503"]) * 10
        await publisher.publish("epmm-b")
        assert [await haproxy.ask_service() for _ in range(10)] == ["b"] * 10
    assert a.asked == 0
    assert set(answers) <= {"b", "503", "closed"}


@contextlib.asynccontextmanager
async def hammered(haproxy) -> AsyncIterator[list[str]]:
    """Clients that ask all the time, through a restart as well; gives what they got."""
    answers: list[str] = []
    is_over = asyncio.Event()

    async def ask() -> None:
        while not is_over.is_set():
            with contextlib.suppress(OSError):
                answers.append(await haproxy.ask_service())
            await asyncio.sleep(0.001)

    clients = [asyncio.ensure_future(ask()) for _ in range(4)]
    try:
        yield answers
    finally:
        is_over.set()  # not cancelled: before Python 3.12 `wait_for` may lose that
        await asyncio.gather(*clients)


async def test_one_key_moves_every_port_together(haproxy, make_group, make_node):
    """Servers without a port: each client stays on the port that it came to."""
    async with contextlib.AsyncExitStack() as stack:
        a, b, a2, b2 = (make_node(name) for name in "abab")
        await stack.enter_async_context(a.serving("127.0.0.2", 0))
        await stack.enter_async_context(b.serving("127.0.0.3", a.port))
        await stack.enter_async_context(a2.serving("127.0.0.2", 0))
        await stack.enter_async_context(b2.serving("127.0.0.3", a2.port))
        group = make_group(
            MAP.format(folder=haproxy.folder),
            a=f"http://127.0.0.2:{a.port}",
            b=f"http://127.0.0.3:{a.port}",
        )
        map_file = haproxy.folder / "active.map"
        map_file.write_text("epmm none\n")
        fronts = [("127.0.0.1", a.port), ("127.0.0.1", a2.port)]
        listen = tuple(f"{host}:{port}" for host, port in fronts)
        text = config_text(group, adapter_of(group), Choices(listen=listen))
        haproxy.check(text)
        await haproxy.start(text)
        for node in "ab":
            haproxy.tell(f"set map {map_file} epmm {node}")
            assert [await haproxy.ask_service(front) for front in fronts] == [node, node]
        assert (a.asked, b.asked, a2.asked, b2.asked) == (1, 1, 1, 1)


# ------------------------------------------------------------------ style server
async def test_style_server_is_closed_until_the_adapter_has_published(
    haproxy, nodes, pair, choices
):
    a, _ = nodes
    group = pair(SERVER)
    text = config_text(group, adapter_of(group), choices)
    haproxy.check(text)
    await haproxy.start(text)
    assert is_refused(await haproxy.ask_service())
    adapter = adapter_of(group)
    publisher = HaproxyServers("edge", haproxy.admin, adapter.backend[0], adapter.nodes)

    await publisher.publish("epmm-b")
    assert [await haproxy.ask_service() for _ in range(5)] == ["b"] * 5
    async with hammered(haproxy) as answers:
        haproxy.kill()
        await haproxy.start()
        assert is_refused(await haproxy.ask_service())
        await publisher.publish("epmm-b")
        assert [await haproxy.ask_service() for _ in range(5)] == ["b"] * 5
    assert a.asked == 0
    assert set(answers) <= {"b", "503", "closed"}


def test_two_backends_get_two_frontends_and_the_second_its_own_port(haproxy, make_group):
    group = make_group(SERVER.format(folder=haproxy.folder).replace("epmm\n", "[epmm, sync]\n", 1))
    text = config_text(group, adapter_of(group), Choices(listen=(":18443", ":19997")))
    haproxy.check(text)
    assert "backend sync" in text
    assert text.count("192.0.2.10:443 check") == text.count("192.0.2.10:19997 check") == 1
    with pytest.raises(ValueError, match=r"2 backends or keys .* and 1 of --listen"):
        config_text(group, adapter_of(group))


def test_the_verb_takes_what_the_file_does_not_say(haproxy, tmp_path):
    """Item 3 of issue 5: each HAProxy of a group, several keys, addresses, group, no prober."""
    folder = haproxy.folder
    (folder / "active.map").write_text("epmm none\nsync none\n")
    (tmp_path / "probes.yaml").write_text(
        "version: 1\ngroups:\n  - name: epmm\n    act: true\n    nodes:\n"
        '      - {name: epmm-a, role: primary, url: "http://192.0.2.10:8080"}\n'
        '      - {name: epmm-b, role: secondary, url: "http://192.0.2.11:8080"}\n'
        "    adapters:\n"
        f"      - {{type: haproxy, name: edge-1, socket: {folder}/admin.sock,"
        f" map_file: {folder}/active.map, key: [epmm, sync], nodes: {{epmm-a: a, epmm-b: b}}}}\n"
        f"      - {{type: haproxy, name: edge-2, socket: {folder}/2.sock, backend: [epmm, sync],"
        " nodes: {epmm-a: a, epmm-b: b}}\n"
    )

    def ask(*words: str) -> click.testing.Result:
        line = ["-c", str(tmp_path / "probes.yaml"), "haproxy", "config", "epmm", *words]
        return click.testing.CliRunner().invoke(cli, line)

    refused = ask()
    assert refused.exit_code == 2
    assert "--listen :PORT --listen :PORT" in refused.stderr
    ports = ("--listen", ":18443", "--listen", ":19997")
    texts = [ask("--adapter", f"edge-{n}", *ports, "--socket-group", "root") for n in (1, 2)]
    for answer in texts:
        assert answer.exit_code == 0, answer.stderr
        haproxy.check(answer.stdout)
        assert "admin group root" in answer.stdout
    assert "use_backend pool_%[str(sync)" in texts[0].stdout
    both = ask(*ports).stdout
    assert both.count("\n# lb-probe haproxy config epmm --adapter edge-") == 2
    assert "edge-2, one of 2 HAProxys: each has a file of its own" in both
    haproxy.check(ask("--agents-only", "--listen", ":18443", "--mode", "tcp").stdout)

    assert "its HAProxys are edge-1, edge-2" in ask("--adapter", "edge-3").stderr
    assert "use what `bind` takes" in ask("--adapter", "edge-1", "--listen", "x").stderr


# ------------------------------------------------------------------ every combination
@pytest.mark.parametrize("style", [MAP, SERVER])
@pytest.mark.parametrize("ends", ["", "  shutdown_sessions: after 1s\n"])
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("https://192.0.2.10", "https://192.0.2.11"),
        ("http://[2001:db8::1]:8080", "http://[2001:db8::2]:8080"),
    ],
)
def test_haproxy_has_nothing_to_say_against_what_is_printed(haproxy, make_group, style, ends, a, b):
    (haproxy.folder / "active.map").write_text("epmm none\n")
    group = make_group(style.format(folder=haproxy.folder) + ends, a=a, b=b)
    for listen in ((), (":18443",), ("127.0.0.1:18443", "[::1]:19997")):
        haproxy.check(config_text(group, adapter_of(group), Choices(listen=listen)))


@pytest.mark.parametrize("style", [MAP, SERVER])
def test_tls_to_the_nodes_is_verified_against_the_shared_name(
    haproxy, make_group, certificate, style
):
    (haproxy.folder / "active.map").write_text("epmm none\n")
    tls = f", tls: {{server_name: epmm.example.com, ca_file: {certificate}}}"
    group = make_group(style.format(folder=haproxy.folder), each=tls)
    text = config_text(group, adapter_of(group), Choices(certificate=certificate))
    haproxy.check(text)
    assert (
        f"192.0.2.10:443 ssl verify required ca-file {certificate}"
        " sni str(epmm.example.com) check-sni epmm.example.com check"
    ) in text


@pytest.fixture
def certificate(haproxy) -> Path:
    """A certificate with its key in one file, as HAProxy wants it."""
    path = haproxy.folder / "server.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=epmm.example.com"),
            *("-keyout", str(haproxy.folder / "key"), "-out", str(haproxy.folder / "cert")),
        ],
        check=True,
        capture_output=True,
    )
    parts = [(haproxy.folder / name).read_text() for name in ("cert", "key")]
    path.write_text("".join(parts))
    (haproxy.folder / "clients.pem").write_text(parts[0])
    return path


@pytest.mark.usefixtures("certificate")
def test_a_socket_on_the_network_stands_behind_tls(haproxy, make_group):
    (haproxy.folder / "active.map").write_text("epmm none\n")
    remote = MAP.format(folder=haproxy.folder).replace(
        f"socket: {haproxy.folder}/admin.sock",
        f'socket: "192.0.2.5:9999"\n  tls: {{ca_file: {haproxy.folder}/cert}}',
    )
    adapter = adapter_of(group := make_group(remote))
    text = config_text(group, adapter, Choices(cli_folder=haproxy.folder))
    haproxy.check(text.replace("bind :443", "bind :18443"))
    assert f"ssl crt {haproxy.folder}/server.pem ca-file {haproxy.folder}/clients.pem" in text
    assert "verify required" in text
    assert "cannot write this file" in text  # the map is on another machine
    bare = adapter.model_copy(update={"tls": None})
    assert "DANGER: plain text and no password" in config_text(group, bare)


@pytest.mark.usefixtures("certificate")
async def test_only_a_client_with_a_certificate_comes_through_to_the_socket(haproxy, make_group):
    folder = haproxy.folder
    remote = f"""
- type: haproxy
  name: edge
  socket: "192.0.2.5:9999"
  backend: epmm
  nodes: {{epmm-a: a, epmm-b: b}}
  tls: {{ca_file: {folder}/cert}}
"""
    adapter = adapter_of(group := make_group(remote))
    choices = Choices(listen=(str(haproxy.front),), cli_folder=folder)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = ("127.0.0.1", taken.getsockname()[1])
    text = config_text(group, adapter, choices)
    text = text.replace("192.0.2.5:9999", "{}:{}".format(*address))
    await haproxy.start(text.replace("/run/haproxy/admin.sock", str(haproxy.admin)))

    def api(*, has_certificate: bool) -> RuntimeApi:
        context = ssl.create_default_context(cafile=folder / "cert")
        context.check_hostname = False  # the test's certificate names nobody in the right place
        if has_certificate:
            context.load_cert_chain(folder / "cert", folder / "key")
        return RuntimeApi(address, timeout_s=10, tls=context, server_name="epmm.example.com")

    assert b"Pid: " in await api(has_certificate=True).ask("show info")
    with pytest.raises((Unreachable, UnfinishedError)):
        await api(has_certificate=False).ask("show info")


def test_a_socket_on_loopback_needs_no_listener(haproxy, make_group):
    local = SERVER.format(folder=haproxy.folder).replace(
        f"socket: {haproxy.folder}/admin.sock", 'socket: "[::1]:19999"'
    )
    text = config_text(group := make_group(local), adapter_of(group))
    haproxy.check(text)
    assert "stats socket ipv6@[::1]:19999 level admin" in text
    assert "lb-probe-cli" not in text


# ------------------------------------------------------------------ what stands in comments
@pytest.mark.parametrize("more", ["", "  shutdown_sessions: after 1s\n  witness: off\n"])
@pytest.mark.parametrize("style", [MAP, SERVER])
def test_the_entry_for_probes_yaml_says_the_same_adapter(make_group, style, more):
    first = adapter_of(make_group(style.format(folder="/run/haproxy") + more))
    again = adapter_of(make_group(adapter_yaml(first)))
    assert again == first


def test_the_commands_in_the_comments_make_the_map(haproxy, make_group):
    folder = haproxy.folder / "maps"
    given = MAP.format(folder=folder).replace("key: epmm", "key: [epmm, other]")
    group = make_group(given + "  local_file: none\n")
    text = config_text(group, adapter_of(group), Choices(listen=(":18443", ":18444")))
    commands = [x.removeprefix("#   ") for x in text.split("\n") if x.startswith("#   ")]
    subprocess.run(["sh", "-ec", "\n".join(commands[:2])], check=True)
    assert (folder / "active.map").read_text() == map_text(adapter_of(group))
    assert (folder / "active.map").stat().st_mode & 0o777 == 0o644
    haproxy.check(text.replace(f"{folder}/admin.sock", f"{haproxy.folder}/admin.sock"))


def test_nothing_printed_chooses_a_node_by_itself(make_group):
    for style in (MAP, SERVER):
        group = make_group(style.format(folder="/run/haproxy"))
        lines = config_text(group, adapter_of(group)).split("\n")
        said = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
        for word in ("backup", "stick", "agent-check", "cookie", "httpchk", "expect", "balance"):
            assert word not in said


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (Choices(listen=("443",)), "listen is '443'; use what `bind` takes"),
        (Choices(listen=(":70000",)), "listen is ':70000'"),
        (Choices(mode="udp"), "mode is 'udp'; use tcp or http"),
        (Choices(certificate=Path("/a b")), "certificate is '/a b'; HAProxy would need quotes"),
    ],
)
def test_what_haproxy_could_not_read_is_refused(make_group, choices, message):
    group = make_group(MAP.format(folder="/run/haproxy"))
    with pytest.raises(ValueError, match=r".") as caught:
        config_text(group, adapter_of(group), choices)
    assert message in str(caught.value)


def test_the_port_of_an_agent_is_not_taken_for_the_service(make_group, tmp_path):
    agents = ", agent: {{listen: 0.0.0.0:8080, control: /run/{}.sock}}"
    path = tmp_path / "agents.yaml"
    path.write_text(
        "version: 1\ngroups:\n  - name: epmm\n    act: true\n    nodes:\n"
        f"      - {{name: a, role: primary, url: http://192.0.2.10:8080{agents.format('a')}}}\n"
        f"      - {{name: b, role: secondary, url: http://192.0.2.11:8080{agents.format('b')}}}\n"
        "    adapters:\n      - {type: haproxy, name: e, socket: /s, backend: epmm,"
        " nodes: {a: a, b: b}}\n"
    )
    (group,) = load(path).groups
    text = config_text(group, adapter_of(group))
    assert "mode tcp" in text
    assert "bind :443" in text
    assert "192.0.2.10:443 check" in text
    assert "8080" not in text


# ------------------------------------------------------------------ docs/haproxy.md
DOC = Path(__file__).parents[2] / "docs/haproxy.md"


def blocks(kind: str) -> list[str]:
    return [part.partition("```")[0] for part in DOC.read_text().split(f"```{kind}\n")[1:]]


def test_the_page_shows_what_is_printed_for_its_own_probes_yaml(haproxy, tmp_path):
    path = tmp_path / "probes.yaml"
    path.write_text(next(block for block in blocks("yaml") if block.startswith("version: 1")))
    (group,) = load(path).groups
    printed, tls, pull, pages = blocks("haproxy")
    assert printed == config_text(group, adapter_of(group))
    assert pages == pages_text(group)
    (haproxy.folder / "active.map").write_text("epmm none\n")
    haproxy.check(printed.replace("/etc/haproxy/maps/active.map", f"{haproxy.folder}/active.map"))
    front = f"frontend f\n    mode tcp\n    bind {haproxy.front}\n    timeout client 1s\n"
    haproxy.check(f"{pull}{front}    default_backend epmm\n")
    assert "verify required" in tls


def test_the_page_names_every_finding_of_the_doctor():
    folder = Path(haproxy_rules_file.__file__).parent
    code = "".join(path.read_text() for path in folder.glob("*.py"))
    severities = (
        '("error"|"warning"|"info")[^,\\n]*,\\n\\s*"([a-z-]+)"(?: if [a-z_]+ else "([a-z-]+)")?'
    )
    named = {name for found in re.findall(severities, code) for name in found[1:] if name}
    assert len(named) > 40
    table = DOC.read_text().partition("## What the doctor finds")[2].partition("\n## ")[0]
    assert named == set(re.findall("`([a-z-]+)`", table.partition("|---|---|")[2])) - {"disabled"}
