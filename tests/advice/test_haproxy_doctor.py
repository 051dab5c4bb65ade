"""The doctor, in front of real HAProxys that are well, and of each that is not."""

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from lb_probe.adapters.haproxy import RuntimeApi
from lb_probe.advice.findings import Finding, as_dicts, is_healthy, ordered, text
from lb_probe.advice.haproxy_config import config_text, map_text
from lb_probe.advice.haproxy_discover import probes_yaml
from lb_probe.advice.haproxy_doctor import examine
from lb_probe.advice.haproxy_file import parse, read_files
from lb_probe.advice.haproxy_lines import Choices
from lb_probe.config import GroupConfig
from lb_probe.config.model import HaproxyAdapter
from lb_probe.ports import PublishError, Unreachable

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


class Patient:
    """A HAProxy with the printed configuration, which a test then spoils."""

    def __init__(self, haproxy, group: GroupConfig, adapter: HaproxyAdapter, text: str) -> None:
        self.haproxy, self.group, self.adapter, self.text = haproxy, group, adapter, text
        self.map_file = haproxy.folder / "active.map"

    def spoil(self, old: str, new: str) -> None:
        assert old in self.text
        self.text = self.text.replace(old, new)

    async def start(self) -> None:
        await self.haproxy.start(self.text)

    async def examine(self, *, with_file: bool = True) -> dict[str, Finding]:
        """Return the findings by their codes, the gravest of each."""
        api = RuntimeApi(self.haproxy.admin, timeout_s=10)
        master = RuntimeApi(self.haproxy.master, timeout_s=10)
        files = [self.haproxy.file] if with_file else []
        found = await examine(api, self.adapter, self.group, files, master=master)
        return {f.code: f for f in reversed(found) if f.code != "known-faults"}


@pytest.fixture
def patient(haproxy, nodes, make_group) -> Callable[..., Patient]:
    def make(style: str, more: str = "") -> Patient:
        a, b = (f"http://127.0.0.1:{node.port}" for node in nodes)
        group = make_group(style.format(folder=haproxy.folder) + more, a=a, b=b)
        (adapter,) = group.adapters
        assert isinstance(adapter, HaproxyAdapter)
        if adapter.style == "map":
            (haproxy.folder / "active.map").write_text(map_text(adapter))
        choices = Choices(listen=(str(haproxy.front),))
        return Patient(haproxy, group, adapter, config_text(group, adapter, choices))

    return make


# ------------------------------------------------------------------ well
@pytest.mark.parametrize("style", [MAP, SERVER])
async def test_nothing_is_wrong_with_what_we_print(patient, style):
    well = patient(style)
    await well.start()
    assert await well.examine() == {}
    if well.adapter.style == "map":
        well.haproxy.tell(f"set map {well.map_file} epmm b")
        well.map_file.write_text("epmm b\n")
    else:
        well.haproxy.tell("set server epmm/b state ready")
    assert await well.examine() == {}


async def test_what_only_the_file_tells_is_said_not_to_be_looked_at(patient):
    well = patient(MAP)
    await well.start()
    assert [*await well.examine(with_file=False)] == ["no-file"]


@pytest.mark.parametrize("style", [MAP, SERVER])
async def test_checks_that_defaults_ask_for_do_not_reach_what_we_print(patient, style, eventually):
    well = patient(style, "  check_interval: 50ms\n")
    well.text = (
        "defaults\n    option httpchk GET /status/status.html\n    timeout connect 1s\n"
        "    timeout client 1s\n    timeout server 1s\n" + well.text
    )
    await well.start()
    well.haproxy.tell("set server epmm/a state ready")

    async def is_checked() -> bool:
        return "L4OK" in well.haproxy.tell("show stat -1 4 -1")

    await eventually(is_checked)
    assert await well.examine() == {}


# ------------------------------------------------------------------ style map
MAP_FAULTS = [
    ("no-hard-stop", "    hard-stop-after 60s\n", ""),
    ("stats-maxconn", "    stats maxconn 50\n", ""),
    ("stats-maxconn", "stats maxconn 50", "stats maxconn 10"),
    ("socket-level", "level admin", "level operator"),
    ("map-default", ",none)]", ")]"),
    ("map-default", ",none)]", ",a)]"),
    ("fixed-way", ",none)]\n", ",none)]\n    default_backend pool_a\n"),
    (
        "fixed-way",
        "    use_backend",
        "    use_backend pool_b if { src 192.0.2.9 }\n    use_backend",
    ),
    (
        "default-backend",
        ",none)]\n",
        ",none)]\n    default_backend sorry\nbackend sorry\n    mode http\n    timeout connect 1s\n"
        "    timeout server 1s\n    server x 127.0.0.1:1\n",
    ),
    (
        "default-backend",
        ",none)]\n",
        ",none)]\n    default_backend sorry\nbackend sorry\n    mode http\n    timeout connect 1s\n"
        "    timeout server 1s\n    server x 127.0.0.9:1\n",
    ),
    (
        "many-servers",
        "    server a ",
        "    server extra 127.0.0.1:1\n    server a ",
    ),
    ("no-backend", "backend pool_b", "backend pool_c"),
    ("in-maintenance", "fall 3 rise 2", "fall 3 rise 2 disabled"),
    ("weight", "fall 3 rise 2", "fall 3 rise 2 weight 0"),
    ("backup", "fall 3 rise 2", "fall 3 rise 2 backup"),
    ("agent-check", "fall 3 rise 2", "fall 3 rise 2 agent-check agent-port 1"),
    ("passive-check", "fall 3 rise 2", "fall 3 rise 2 observe layer4 on-error mark-down"),
    (
        "backend-none",
        "backend pool_a",
        "backend pool_none\n    mode http\n    server n 127.0.0.1:1",
    ),
    (
        "stick",
        "backend pool_a\n",
        "backend pool_a\n    stick-table type ip size 1 nopurge\n    stick on dst\n",
    ),
    (
        "health-page-check",
        "    option tcp-check\n",
        "    option httpchk GET /hastatus.html\n",
    ),
    (
        "health-page-check",
        "    option tcp-check\n",
        "    option httpchk\n    http-check send meth GET uri /status/status.html\n",
    ),
    ("persist", "backend pool_b\n", "backend pool_b\n    option persist\n"),
    (
        "nbsrv",
        "    use_backend",
        "    use_backend pool_b if { nbsrv(pool_a) lt 1 }\n    use_backend",
    ),
    ("key-unused", "str(epmm),map", "str(mail),map"),
    (
        "state-file",
        "backend pool_b\n",
        "backend pool_b\n    load-server-state-from-file local\n",
    ),
]


@pytest.mark.parametrize(("code", "old", "new"), MAP_FAULTS)
async def test_each_fault_of_a_map_is_found_by_its_name(patient, code, old, new):
    ill = patient(MAP)
    ill.spoil(old, new)
    await ill.start()
    found = await ill.examine()
    assert code in found, found
    finding = found[code]
    assert finding.why
    assert finding.fix
    grave = (
        code not in {"no-hard-stop", "stats-maxconn", "passive-check"} and "127.0.0.9" not in new
    )
    if (code, new) != ("map-default", ")]"):  # nobody is caught: it only warns
        assert is_healthy(found.values()) is not grave, found


MAP_FILES = [
    ("no-key", "warning", "other none\n", "add map"),
    ("file-without-key", "warning", "other none\n", "echo 'epmm none'"),
    ("key-twice", "error", "epmm none\nepmm a\n", "keep one line"),
    ("unknown-value", "error", "epmm zz\n", "epmm none"),
]


@pytest.mark.parametrize(("code", "severity", "content", "fix"), MAP_FILES)
async def test_each_fault_of_the_map_file_is_found(patient, code, severity, content, fix):
    ill = patient(MAP)
    ill.map_file.write_text(content)
    await ill.start()
    found = await ill.examine()
    assert found[code].severity == severity
    assert fix in found[code].fix


async def test_the_fix_for_a_missing_key_mends_it(patient):
    ill = patient(MAP)
    ill.map_file.write_text("other none\n")
    await ill.start()
    shell, runtime = (await ill.examine())["no-key"].fix.split("   # and: ")
    subprocess.run(["sh", "-c", shell], check=True)  # noqa: ASYNC221 - nothing else runs
    ill.haproxy.tell(runtime)
    assert await ill.examine() == {}


async def test_a_file_that_nobody_writes_must_say_none(patient):
    ill = patient(MAP, "  local_file: none\n")
    ill.map_file.write_text("epmm a\n")
    await ill.start()
    found = await ill.examine()
    assert found["file-not-none"].severity == "error"
    assert found["file-not-none"].fix == "epmm none"


async def test_a_file_that_differs_from_what_runs_is_told(patient):
    ill = patient(MAP)
    await ill.start()
    ill.haproxy.tell(f"set map {ill.map_file} epmm b")
    assert (await ill.examine())["file-differs"].severity == "warning"


async def test_a_folder_that_is_not_ours_is_told(patient, monkeypatch):
    ill = patient(MAP)
    await ill.start()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root, as in CI, may write anywhere
    assert (await ill.examine())["file-not-writable"].severity == "error"


async def test_a_map_under_another_spelling_is_named(patient):
    ill = patient(MAP)
    await ill.start()
    other = str(ill.map_file).replace("/active", "/./active")
    ill.adapter = ill.adapter.model_copy(update={"map_file": other})
    found = await ill.examine()
    assert found["no-map"].fix == f"map_file: {ill.map_file}"

    ill.adapter = ill.adapter.model_copy(update={"map_file": str(ill.map_file)})
    ill.spoil(
        "    use_backend",
        f"    http-request set-var(txn.x) str(epmm),map({other})\n    use_backend",
    )
    ill.haproxy.kill()
    await ill.start()
    assert "map-twice" in await ill.examine()


async def test_the_marks_that_lb_probe_leaves_in_a_map_are_no_fault(patient):
    well = patient(MAP)
    well.map_file.write_text("epmm none\nepmm:owner lb-probe@here\n")
    await well.start()
    assert await well.examine() == {}


# ------------------------------------------------------------------ style server
SERVER_FAULTS = [
    ("not-disabled", " disabled", "", True),
    ("two-ready", " disabled", "", True),
    ("no-server", "    server b ", "    server c ", True),
    ("stranger", "    server b ", "    server c 127.0.0.1:1\n    server b ", True),
    ("redispatch", "backend epmm\n", "backend epmm\n    option redispatch\n", False),
    ("cookie", "backend epmm\n", "backend epmm\n    cookie SRV insert\n", False),
    (
        "default-backup",
        "    server a ",
        "    default-server backup\n    server a ",
        True,
    ),
    (
        "state-file",
        "frontend",
        "defaults\n    mode http\n    timeout client 1s\n    timeout server 1s\n"
        "    timeout connect 1s\n    load-server-state-from-file global\nfrontend",
        True,
    ),
]


@pytest.mark.parametrize(("code", "old", "new", "grave"), SERVER_FAULTS)
async def test_each_fault_of_style_server_is_found_by_its_name(patient, code, old, new, grave):
    ill = patient(SERVER)
    ill.spoil(old, new)
    await ill.start()
    found = await ill.examine()
    assert code in found, found
    assert is_healthy(found.values()) is not grave, found


async def test_a_server_that_stands_for_the_other_node_is_an_error(patient, make_group):
    ill = patient(SERVER)
    await ill.start()
    ill.group = make_group(
        SERVER.format(folder=ill.haproxy.folder), a="http://127.0.0.2:1", b="http://127.0.0.1:2"
    )
    found = await ill.examine()
    assert found["swapped"].severity == "error"
    assert "stands for epmm-a; epmm-b has that address" in found["swapped"].found


async def test_a_check_of_a_page_that_holds_the_standby_down_is_an_error(patient, eventually):
    ill = patient(MAP, "  check_interval: 50ms\n")
    ill.spoil("    option tcp-check\n", "    option httpchk GET /other\n")
    ill.spoil(
        "timeout server 5m\n    server b",
        "http-check expect status 204\n    timeout server 5m\n    server b",
    )
    await ill.start()

    async def is_found() -> bool:
        found = await ill.examine()
        return "page-check" in found and found["page-check"].severity == "error"

    await eventually(is_found)


async def test_a_node_that_haproxy_cannot_reach_is_a_warning(patient, nodes, eventually):
    ill = patient(MAP, "  check_interval: 50ms\n")
    ill.spoil(f":{nodes[1].port} check", ":1 check")
    await ill.start()

    async def is_found() -> bool:
        return "down" in await ill.examine()

    await eventually(is_found)
    assert is_healthy((await ill.examine()).values())


# ------------------------------------------------------------------ the process
async def test_tls_words_on_a_socket_and_the_port_it_opens_are_errors(patient):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    ill = patient(MAP)
    line = f"    stats socket ipv4@127.0.0.1:{port} ssl crt /x verify required level admin\n"
    await ill.start()
    ill.haproxy.file.write_text(ill.text.replace("    stats maxconn", line + "    stats maxconn"))
    assert (await ill.examine())["socket-ssl"].severity == "error"

    ill.haproxy.kill()
    plain = line.replace(" ssl crt /x verify required", "")
    await ill.haproxy.start(ill.text.replace("    stats maxconn", plain + "    stats maxconn"))
    found = await ill.examine()
    assert found["local-socket"].severity == "info"
    ill.haproxy.kill()
    await ill.haproxy.start(
        ill.text.replace(
            "    stats maxconn", plain.replace("127.0.0.1", "0.0.0.0") + "    stats maxconn"
        )
    )
    assert (await ill.examine())["open-socket"].severity == "error"


async def test_a_process_that_a_reload_left_behind_is_told(patient, eventually):
    ill = patient(MAP)
    await ill.start()
    with socket.socket(socket.AF_UNIX) as client:  # a connection that keeps the old one alive
        ill.haproxy.tell(f"set map {ill.map_file} epmm a")
        client.connect(str(ill.haproxy.front))
        client.sendall(b"GET / HTTP/1.1\r\n")
        ill.haproxy.reload()

        async def is_told() -> bool:
            try:
                return "old-workers" in await ill.examine()
            except PublishError:
                return False

        await eventually(is_told)


async def test_without_a_master_socket_it_says_what_it_cannot_see(patient):
    well = patient(MAP)
    await well.start()
    api = RuntimeApi(well.haproxy.admin, timeout_s=10)
    found = await examine(api, well.adapter, well.group, [well.haproxy.file])
    assert "no-master" in [finding.code for finding in found]
    nobody = RuntimeApi(well.haproxy.folder / "nobody.sock", timeout_s=10)
    found = await examine(api, well.adapter, well.group, [well.haproxy.file], master=nobody)
    assert "master-unreachable" in [finding.code for finding in found]


async def test_a_file_of_another_haproxy_is_not_taken_for_its_own(patient):
    """What does not stand in it is no fault, and what does is no comfort."""
    ill = patient(SERVER)
    await ill.start()
    own = ill.haproxy.file.read_text()
    other = own.replace("backend epmm", "backend mail").replace("    hard-stop-after 60s\n", "")
    ill.haproxy.file.write_text(other)
    assert [*await ill.examine()] == ["other-file"]

    ill = patient(MAP)
    ill.haproxy.kill()
    await ill.start()
    part = ill.text.replace("backend pool_b", "backend b").replace("hard-stop-after 60s", "")
    ill.haproxy.file.write_text(part)
    found = await ill.examine()
    assert {*found} == {"other-file", "no-hard-stop"}  # the rest of it is looked at
    assert "backend pool_b runs" in found["other-file"].found
    assert "haproxy doctor epmm --adapter edge --file" in found["other-file"].fix


class Garbled:
    """A command socket that answers one line in its own way, and the others well."""

    where = "/run/garbled.sock"

    def __init__(self, answers: dict[str, bytes], line: str, answer: bytes) -> None:
        self._answers, self._line, self._answer = answers, line, answer

    async def ask(self, line: str) -> bytes:
        """Answer as a HAProxy that is well, but for the one line."""
        return self._answer if line == self._line else self._answers[line]


ASKED = ("show info", "show stat -1 4 -1", "show servers state")


def garble(answer: bytes, columns: Sequence[str]) -> Iterator[bytes]:
    """Yield what a cut, a foreign, a newer or no HAProxy could answer."""
    yield from (b"", b"\n", b"Permission denied\n\n", b"Unknown command: 'show'\n\n", bytes(256))
    yield b"<html>\r\n<body>400 Bad Request</body>\r\n"
    yield b'# pxname,svname\n"never closed'
    yield b"1\n# be_name\nepmm\n\n"
    for name in columns:
        yield answer.replace(name.encode(), b"renamed")
    rows = answer.rstrip(b"\n")
    for at in (len(rows) - 1, len(rows) // 2, 30):
        yield rows[:at].rsplit(b" " if b"be_id" in answer else b",", 2)[0]


async def test_nonsense_is_told_and_is_no_clean_bill(patient):
    """One word for the doctor and `init --from-haproxy`: that is no HAProxy, or not all of it."""
    well = patient(SERVER)
    await well.start()
    answers = {line: (await well.haproxy.ask(line)).encode() for line in (*ASKED, *OPTIONAL)}
    columns = {
        "show info": ["Pid"],
        "show stat -1 4 -1": ["pxname", "svname", "bck", "check_status"],
        "show servers state": ["be_name", "srv_name", "srv_admin_state", "srv_op_state"],
    }
    place = Path("/run/garbled.sock")
    for line in ASKED:
        for answer in garble(answers[line], columns[line]):
            api = Garbled(answers, line, answer)
            with pytest.raises(PublishError, match=f"not answer `{line.partition(' -1')[0]}` as"):
                await examine(api, well.adapter, well.group)
            with pytest.raises(PublishError, match="HAProxy's command socket"):
                await probes_yaml(api, place)
    for line in OPTIONAL:  # an old HAProxy does not know them
        api = Garbled(answers, line, b"Unknown command\n\n")
        assert is_healthy(await examine(api, well.adapter, well.group))


OPTIONAL = ("show map", "show table", "show cli level", "show cli sockets")


async def test_a_haproxy_that_is_not_there_is_no_finding_but_an_error(patient):
    ill = patient(MAP)
    api = RuntimeApi(ill.haproxy.admin, timeout_s=10)
    with pytest.raises(Unreachable, match="no such socket"):
        await examine(api, ill.adapter, ill.group)


async def test_a_file_that_cannot_be_read_is_named(patient, tmp_path):
    ill = patient(MAP)
    await ill.start()
    api = RuntimeApi(ill.haproxy.admin, timeout_s=10)
    with pytest.raises(PublishError, match=r"nowhere.cfg: No such file"):
        await examine(api, ill.adapter, ill.group, [tmp_path / "nowhere.cfg"])


# ------------------------------------------------------------------ reading and telling
def test_quotes_comments_escapes_and_inherited_defaults_are_read():
    config = parse(
        [
            (
                "x.cfg",
                "defaults base\n  option httpchk GET '/a b' # no\n  timeout connect 1s\n"
                "defaults other from base\n  no option httpchk\n"
                "frontend f from other\n  bind :80\nbackend b from base\n"
                '  http-check expect string "x\\"#" y\\ z\n.if 1\n  server s ::1:80\n.endif\n',
            )
        ]
    )
    (backend,) = config.proxies("backend")
    (frontend,) = config.proxies("frontend")
    assert [line.words for line in backend.all("option", "httpchk")] == [
        ("option", "httpchk", "GET", "/a b")
    ]
    assert frontend.all("option", "httpchk") == []
    assert backend.all("http-check")[0].words[-2:] == ('x"#', "y z")
    assert backend.all("server")[0].where == "x.cfg:11"


def test_a_folder_stands_for_its_files_in_order(tmp_path: Path):
    (tmp_path / "2.cfg").write_text("backend b\n")
    (tmp_path / "1.cfg").write_text("defaults\n  mode http\n")
    (tmp_path / "notes.txt").write_text("backend c\n")
    config = read_files([tmp_path])
    assert [section.kind for section in config.sections] == ["defaults", "backend"]
    assert config.sections[1].all("mode", "http")


def test_findings_are_told_gravest_first_to_people_and_to_programs():
    findings = [
        Finding("info", "i", "an i", "so", "nothing"),
        Finding("error", "e", "an e", "then " * 40, "line one\nline two"),
        Finding("error", "e", "an e", "then " * 40, "line one\nline two"),
    ]
    told = text(findings)
    assert told.startswith("error: an e [e]\n  why: then")
    assert "  fix: line one\n  fix: line two\n" in told
    assert told.endswith("1 error, 1 info\n")
    assert max(map(len, told.split("\n"))) <= 96
    assert json.loads(json.dumps(as_dicts(findings)))[0]["severity"] == "error"
    assert [finding.code for finding in ordered(findings)] == ["e", "i"]
    assert text([]) == "nothing found\n"
