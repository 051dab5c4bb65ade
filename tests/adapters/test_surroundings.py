"""What `check` says of what is around a good file: sockets, folders, certificates, a Standby."""

import asyncio
import grp
import os
import socket
import time
from functools import partial

import pytest
from emulator import Condition, Emulator
from loopback import listening
from raw_server import NAME, answering, make_certificates, page, server_tls

from lb_probe import app
from lb_probe.advice.surroundings import User, look_around
from lb_probe.app.parts import targets_of
from lb_probe.config import load
from lb_probe.prober import http_probe
from lb_probe.prober.names import Names

FILE = """
version: 1
store: sqlite:{folder}/state.db
groups:
  - name: epmm
    act: true
    probe: {{timeout: 2s}}
    {more}
    nodes:
      - {{name: a, role: primary, url: "{a}"{tls}}}
      - {{name: b, role: secondary, url: "{b}"}}
    adapters: [{adapter}]
"""
OK = "MOBILEIRON-STATUS: OK"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


async def told(folder, **words):
    """What is said of a file; every node is down unless it is named."""
    with socket.create_server(("127.0.0.1", 0)) as spot:
        nobody = f"http://127.0.0.1:{spot.getsockname()[1]}"
    words = {"folder": folder, "a": nobody, "b": nobody.replace("0.1", "0.2"), "tls": ""} | words
    file = folder / "probes.yaml"
    file.write_text(FILE.format(**{"adapter": "", "more": ""} | words))
    names = Names(time.monotonic)
    try:
        ask = partial(http_probe.inspect, clock=time.monotonic, names=names)
        return "\n".join(await look_around(load(file), targets_of, ask))
    finally:
        names.close()


def by_map(at, place, folder):
    nodes = "nodes: {a: a, b: b}"
    return f"{{type: haproxy, name: edge, socket: {at}, map_file: {place}/m, key: epmm, {nodes}}}"


def serve(statuses, date=""):
    """Answer each page with its text; nothing else."""

    async def answer(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        text = statuses[head.split()[1].decode()]
        code = "200 OK" if text.startswith(OK) else "503 Service Unavailable"
        head = f"HTTP/1.1 {code}\r\n{date}Content-Length: {len(text)}\r\nConnection: close\r\n"
        writer.write(f"{head}\r\n{text}".encode())
        await writer.drain()
        writer.close()

    return answer


# ------------------------------------------------------------------ F5
async def test_a_big_ip_that_would_not_work_is_told_and_nothing_is_written(tmp_path):
    """Issue: priority groups, traps in monitors, units and members that are not there."""
    async with Emulator.pair() as bigip:
        bigip.add_pool("/Common/epmm", "192.0.2.10:443", "192.0.2.12:443", monitor="/Common/https")
        bigip.configure("PATCH", "ltm/pool/~Common~epmm", {"minActiveMembers": 1})
        password = tmp_path / "f5.pass"
        password.write_text(bigip.password)
        password.chmod(0o600)
        adapter = (
            "{{type: f5-ltm, name: bigip, hosts: {hosts}, pool: /Common/epmm, username: lb-probe,"
            " password_file: f5.pass, tls: {{{tls}}},"
            ' nodes: {{a: "/Common/192.0.2.10:443", b: "/Common/192.0.2.{b}:443"}}}}'
        )
        first, second = bigip.urls
        file = tmp_path / "probes.yaml"

        async def check(**words):
            tls = f'ca_file: "{bigip.ca_file}"'
            text = adapter.format(**{"hosts": [first], "tls": tls, "b": 12} | words)
            where = {"folder": tmp_path, "a": "http://127.0.0.1:9", "b": "http://127.0.0.2:9"}
            file.write_text(FILE.format(tls="", more="", adapter=text, **where))
            found = await asyncio.to_thread(app.check, file, "check", looks_around=True)
            return [line for line in found if "bigip" in line]

        (said,) = await check()
        assert said.startswith("group epmm: bigip: ")
        assert "minActiveMembers is 1" in said
        (said,) = await check(b=77)
        assert "has no member /Common/192.0.2.77:443; it has /Common/192.0.2.10:443" in said
        bigip.configure("PATCH", "ltm/pool/~Common~epmm", {"minActiveMembers": 0})
        for node in ("10", "12"):
            path = f"ltm/pool/~Common~epmm/members/~Common~192.0.2.{node}:443"
            bigip.configure("PATCH", path, {"session": "user-enabled"})
        assert await check() == []
        (said,) = await check(tls="insecure: true")
        assert "sends the password to whoever answers" in said
        bigip.unit(1).condition = Condition.OFF
        (said,) = await check(hosts=[first, second])
        assert second.removeprefix("https://") in said
        password.write_text("wrong")
        (said,) = await check()
        assert "refused the login of lb-probe" in said
        log = [seen for unit in bigip.units for seen in unit.log if "/mgmt/tm/" in seen.raw_path]
        assert {seen.method for seen in log} == {"GET"}
        assert all(not unit.logins.tokens for unit in bigip.units if unit.is_there)


# ------------------------------------------------------------------ HAProxy on this machine
async def test_a_socket_that_is_not_there_and_a_folder_that_is_not_there(tmp_path):
    text = await told(tmp_path, adapter=by_map(tmp_path / "no.sock", tmp_path / "maps", tmp_path))
    assert f"there is no {tmp_path}/no.sock; is HAProxy running" in text
    assert f"there is no folder {tmp_path}/maps for the map; sudo install -d -o" in text


async def test_a_socket_of_the_wrong_level_is_named(tmp_path, map_haproxy):
    text = await told(tmp_path, adapter=by_map(map_haproxy.operator, tmp_path, tmp_path))
    assert f"{map_haproxy.operator} is `level operator`; its line needs `level admin`" in text
    assert f"there is no map {tmp_path}/m yet" in text
    (tmp_path / "m").write_text("epmm none\n")
    text = await told(tmp_path, adapter=by_map(map_haproxy.admin, tmp_path, tmp_path))
    assert "edge" not in text


async def test_something_that_is_no_socket_is_named(tmp_path):
    (tmp_path / "file").touch()
    text = await told(tmp_path, adapter=by_map(tmp_path / "file", tmp_path, tmp_path))
    assert f"{tmp_path}/file is no socket" in text


def test_a_user_may_what_the_modes_of_owner_group_or_others_let_him(tmp_path):
    file = tmp_path / "f"
    file.touch()
    uid, gid = file.stat().st_uid, file.stat().st_gid
    owner = User("o", uid or 1, frozenset())
    for mode, who, may in (
        (0o600, User("x", 65_001, frozenset({gid})), False),
        (0o660, User("x", 65_001, frozenset({gid})), True),
        (0o606, User("x", 65_001, frozenset({gid})), False),  # the group's bits count for its own
        (0o606, User("x", 65_001, frozenset()), True),
        (0o660, User("x", 65_001, frozenset()), False),
        (0o000, User("root", 0, frozenset()), True),
    ):
        file.chmod(mode)
        assert who.may(file, os.R_OK | os.W_OK) is may
    if uid:
        file.chmod(0o600)
        assert owner.may(file, os.W_OK)


async def test_who_is_not_in_the_sockets_group_is_told_the_group(
    tmp_path, map_haproxy, monkeypatch
):
    stranger = User("lb-probe", 65_001, frozenset())
    monkeypatch.setattr("lb_probe.advice.surroundings.user", lambda: stranger)
    group = next(g for g in grp.getgrall() if g.gr_gid)
    try:
        os.chown(map_haproxy.admin, -1, group.gr_gid)
    except PermissionError:
        pytest.skip("needs root to give a socket away")
    map_haproxy.admin.chmod(0o660)
    (tmp_path / "closed").mkdir(mode=0o700)
    adapter = by_map(map_haproxy.admin, tmp_path / "closed", tmp_path)
    text = await told(tmp_path, adapter=adapter)
    assert f"sudo usermod -aG {group.gr_name} lb-probe, and start the prober anew" in text
    assert f"lb-probe cannot write to {tmp_path}/closed, and a map is replaced by rename" in text


# ------------------------------------------------------------------ nodes
async def test_two_pages_that_fail_alike_are_one_line(tmp_path):
    lines = (await told(tmp_path)).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("group epmm: a status and hastatus: connect-refused:")


async def test_a_standby_whose_status_page_fails_is_no_fault(tmp_path):
    pages = {"/status/status.html": "MOBILEIRON-STATUS: ERROR"}
    pages["/hastatus.html"] = f"{OK} (Mode: Standby)"
    async with listening(serve(pages)) as server:
        host, port = server.sockets[0].getsockname()
        text = await told(tmp_path, b=f"http://{host}:{port}")
    assert "b status: fails (" in text
    assert "as is expected of a Standby: no fault" in text
    assert "b hastatus" not in text


async def test_a_certificate_for_another_name_is_told_with_the_line_to_add(tmp_path, certificates):
    tls = server_tls(certificates, "good")
    async with listening(answering(page()), ssl=tls) as server:
        host, port = server.sockets[0].getsockname()
        text = await told(
            tmp_path,
            a=f"https://{host}:{port}",
            tls=f', tls: {{ca_file: "{certificates}/ca.pem"}}',
        )
    assert "certificate wrong name" in text
    assert f"it is for {NAME}: say `tls: {{server_name: {NAME}}}` of this node" in text


def test_the_file_itself_is_told_of_a_certificate_that_anybody_may_have(tmp_path):
    file = tmp_path / "probes.yaml"
    words = {"a": "https://192.0.2.1", "b": "https://192.0.2.2", "tls": ", tls: {insecure: true}"}
    file.write_text(FILE.format(folder=tmp_path, adapter="", more="", **words))
    (warning,) = [w for w in app.check(file, "check") if "insecure" in w]
    assert warning.startswith("group epmm: node a: `insecure: true` takes any certificate")


async def test_a_port_that_only_the_peer_should_reach_is_told(tmp_path):
    """R32: reachable from here is a warning; a refusal, and the service's own port, are none."""
    pages = {"/status/status.html": OK, "/hastatus.html": f"{OK} (Mode: Primary)"}
    async with listening(serve(pages)) as server, listening(serve(pages)) as admin:
        own, closed = (one.sockets[0].getsockname()[1] for one in (server, admin))
        with socket.create_server(("127.0.0.1", 0)) as spot:
            dead = spot.getsockname()[1]
        ports = f"closed_ports: [{own}, {closed}, {dead}]"
        text = await told(tmp_path, a=f"http://127.0.0.1:{own}", more=ports)
        assert f"group epmm: a: port {closed} can be reached from here" in text
        assert f"port {own}" not in text.replace(f":{own}", "")
        assert f"port {dead}" not in text
        assert "can be reached" not in await told(tmp_path, a=f"http://127.0.0.1:{own}")


async def test_clocks_that_are_apart_are_told_by_the_dates_of_the_pages(tmp_path):
    """R11: without an agent; whose clock is right does not matter, and seconds are cut off."""
    pages = {"/status/status.html": OK, "/hastatus.html": f"{OK} (Mode: Primary)"}

    async def told_of(*dates, extra=""):
        lines = [f"{extra}Date: {date}\r\n" if date else "" for date in dates]
        async with (
            listening(serve(pages, lines[0])) as one,
            listening(serve(pages, lines[1])) as other,
        ):
            ports = [server.sockets[0].getsockname()[1] for server in (one, other)]
            a, b = (f"http://127.0.0.1:{port}" for port in ports)
            found = await told(tmp_path, a=a, b=b)
            return [line for line in found.splitlines() if "clocks" in line]

    now, soon = "Tue, 03 Nov 2026 10:00:00 GMT", "Tue, 03 Nov 2026 10:00:01 GMT"
    (line,) = await told_of(now, "Tue, 03 Nov 2026 10:00:09 GMT")
    assert line.startswith("group epmm: the clocks of a and b are ")
    assert 6.0 < float(line.split(" are ")[1].split("s ")[0]) <= 8.0
    assert await told_of(now, soon) == []
    assert await told_of(now, None) == []
    assert await told_of(now, "yesterday, or so") == []
    assert await told_of(now, "Tue, 03 Nov 2026 10:00:09 GMT", extra="Age: 9\r\n") == []


async def test_a_port_of_clients_that_is_shut_is_told_and_a_standby_may_refuse(tmp_path):
    """R72: before a failover needs it."""
    pages = {"/status/status.html": OK, "/hastatus.html": f"{OK} (Mode: Standby)"}
    async with listening(serve(pages)) as server:
        own = server.sockets[0].getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as spot:
            dead = spot.getsockname()[1]
        urls = {name: f"http://127.0.0.{n}:{own}" for n, name in enumerate("ab", 1)}
        text = await told(tmp_path, **urls, more=f"service_ports: [{own}, {dead}]")
    assert f"group epmm: a: port {dead} is not reached from here (Connection refused)" in text
    assert f"b: port {dead}" not in text  # a Standby that serves nothing there yet
    assert f"a: port {own} " not in text
