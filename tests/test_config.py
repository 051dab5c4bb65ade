"""probes.yaml: what is understood, and the exact words for every mistake."""

import json
import os
import re
import shutil
import string
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lb_probe.app.parts import targets_of
from lb_probe.config import Address, Config, ConfigError, Url, load, yaml_text
from lb_probe.config.agent import HttpCheck
from lb_probe.config.model import CommandAdapter, DnsAdapter, F5GtmAdapter, F5LtmAdapter
from lb_probe.config.schema import KEYS
from lb_probe.config.values import parse_tsig_key
from lb_probe.core.model import Group, Node, Page, Role
from lb_probe.core.status_page import Expected

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
CONFIGS = ROOT / "tests" / "configs"
VALID = (CONFIGS / "valid.yaml").read_text()


# Good for a hundred years, from 2026 on, and of nobody: its key is lost.
A_CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBbzCCARWgAwIBAgIUAhl3PE2nBAww48sVeYwj4M3wBdgwCgYIKoZIzj0EAwIw
DDEKMAgGA1UEAwwBeDAgFw0yNjExMjgyMjEyMzNaGA8yMTI2MTEwNDIyMTIzM1ow
DDEKMAgGA1UEAwwBeDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABOmDeY56WFIo
I5NXrIS5dSvBFaIzonq2LsLblPc8fAyvomJRigj09CqQ5cuyYeCtUqimttejkfcm
TOIAXq9VPJmjUzBRMB0GA1UdDgQWBBR2e6IcadDteIkDUls7sXkVrO8ipTAfBgNV
HSMEGDAWgBR2e6IcadDteIkDUls7sXkVrO8ipTAPBgNVHRMBAf8EBTADAQH/MAoG
CCqGSM49BAMCA0gAMEUCICJ83zxvngvUw6eA3oDeC+I4L+6NMTd31zoMZDX2dja6
AiEA/PZ1lGbH2bns7uBzFf0tFSOS+hF5F9GDs3q5OZoP3rM=
-----END CERTIFICATE-----
"""


def cases(name: str) -> list[tuple[str, list[str]]]:
    """Return text and expected faults of every case of a file in tests/configs."""
    found = []
    for case in yaml.safe_load((CONFIGS / name).read_text()):
        text = case.get("text", VALID)
        for old, new in case.get("change", {}).items():
            assert old in text, old
            text = text.replace(old, new)
        found.append((text + case.get("append", ""), case["faults"]))
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


def make_folder(path: Path) -> Path:
    (path / "ops.token").write_text("secret\n")
    (path / "ops.token").chmod(0o640)
    (path / "ca.pem").write_text(A_CERTIFICATE)
    (path / "tsig.key").write_text("c2VjcmV0\n")
    (path / "tsig.key").chmod(0o640)
    return path


def read(folder: Path, text: str | bytes, as_: str = "check") -> Config:
    path = folder / "probes.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load(path, as_=as_)


def faults(folder: Path, text: str | bytes, as_: str = "check") -> list[str]:
    """Return the faults without the file's name, which each of them must begin with."""
    with pytest.raises(ConfigError) as caught:
        read(folder, text, as_)
    name = f"{folder}/probes.yaml:"
    assert all(fault.startswith(name) for fault in caught.value.faults)
    assert str(caught.value) == "\n".join(caught.value.faults)
    return [fault.removeprefix(name).replace(str(folder), "DIR") for fault in caught.value.faults]


def changed(old: str, new: str) -> str:
    assert VALID.count(old) == 1, old
    return VALID.replace(old, new)


# ------------------------------------------------------------------ what is understood
def test_a_valid_file_becomes_values_with_units(folder: Path) -> None:
    read_config = read(folder, VALID)
    group = read_config.groups[0]
    a, b = group.nodes

    assert read_config.path == folder / "probes.yaml"
    assert read_config.store_path == folder / "state.db"
    assert read_config.api is not None
    assert read_config.api.socket == folder / "api.sock"
    assert read_config.api.listen == Address("127.0.0.1", 8600)
    assert read_config.api.operators[0].token_file == folder / "ops.token"
    assert [str(t) for t in read_config.reference_targets] == ["192.0.2.1:443", "[2001:db8::1]:53"]
    assert read_config.limits.failovers_per_minute is None
    assert a.url == Url("https", "192.0.2.10", 443)
    assert str(b.url) == "http://192.0.2.11:8080"
    assert a.tls is not None
    assert a.tls.ca_file == folder / "ca.pem"
    assert group.promotion is not None
    assert (group.promotion.interval_s, group.promotion.on_failure) == (60.0, "promote")
    assert group.adapters[0].socket == folder / "admin.sock"
    assert group.adapters[1].socket == Address("127.0.0.1", 9999)
    assert group.adapters[0].nodes == {"a": "s1", "b": "s2"}


def test_a_groups_probe_settings_win_over_defaults_and_those_over_built_in_ones(
    folder: Path,
) -> None:
    probe = read(folder, VALID).groups[0].probe

    assert (probe.fall, probe.interval_s, probe.recheck_s) == (5, 2.0, 0.25)
    assert (probe.timeout_s, probe.rise, probe.max_age_s) == (1.0, 2, 3.0)


def test_an_agent_names_its_checks_and_keeps_its_mode_beside_its_socket(folder: Path) -> None:
    agent = read(folder, VALID).groups[0].nodes[1].agent
    assert agent is not None

    assert [check.name for check in agent.checks] == ["http-1", "tcp-2", "unit"]
    assert [check.max_age_s for check in agent.checks] == [9.0, 21.0, 21.0]
    assert [check.pages for check in agent.checks][1:] == [("status",), ("status", "hastatus")]
    assert agent.state == folder / "run" / "b.state.json"
    assert agent.drain_s == 0.0
    assert isinstance(agent.checks[0], HttpCheck)
    assert agent.checks[0].url.target == "/health?x=1"


def test_shape_is_the_group_as_the_core_knows_it(folder: Path) -> None:
    assert read(folder, VALID).groups[0].shape == Group(
        name="epmm",
        nodes=(Node("a", Role.PRIMARY), Node("b", Role.SECONDARY, candidate=True)),
        adapters=("edge", "tcp"),
        fall=5,
        require=("primary-serving", "synced"),
    )


DNS = """
      - type: dns
        name: gslb
        servers: [192.0.2.53, "[2001:db8::53]:5353", "2001:db8::54"]
        zone: Example.com.
        record: epmm.example.com.
        ttl: 90s
        nodes: {a: [192.0.2.10, "2001:DB8::A"], b: [192.0.2.11, "2001:db8::b"]}
        tsig: {name: lb-probe, key_file: tsig.key}
      - {type: command, name: ns, argv: [/opt/ns, move], read: [ns, read], nodes: {a: x, b: z}}
"""


def test_a_name_that_moves_and_programs_become_values(folder: Path) -> None:
    group = read(folder, VALID.rstrip() + DNS).groups[0]
    dns, command = group.adapters[2:]

    assert isinstance(dns, DnsAdapter)
    assert [str(s) for s in dns.servers] == ["192.0.2.53:53", "[2001:db8::53]:5353",
                                             "[2001:db8::54]:53"]  # fmt: skip
    assert (dns.zone, dns.record, dns.cname) == ("example.com", "epmm.example.com", False)
    assert dns.nodes == {"a": ("192.0.2.10", "2001:db8::a"), "b": ("192.0.2.11", "2001:db8::b")}
    assert (dns.tsig.algorithm, dns.tsig.key_file) == ("hmac-sha256", folder / "tsig.key")
    assert isinstance(command, CommandAdapter)
    assert command.argv == ("/opt/ns", "move")
    assert (command.timeout_s, command.poll_s) == (5.0, 5.0)
    assert group.fingerprints["a"].endswith(
        "dns epmm.example.com at 192.0.2.53:53=192.0.2.10 2001:db8::a\ncommand ns=x"
    )
    assert group.times.ttl_s == 90.0
    assert read(folder, VALID).groups[0].times.ttl_s is None


F5 = """
      - {type: f5-ltm, name: bigip, hosts: ["https://10.0.0.5", "https://[2001:db8::5]:8443/"], pool: /Common/epmm,
         nodes: {a: "/Common/192.0.2.10%10:443", b: "/Common/2001:db8::11.443"}, username: lb-probe, password_file: tsig.key,
         device_group: dg1, tls: {ca_file: ca.pem}}
      - {type: f5-gtm, name: gslb, hosts: ["https://10.0.0.7"], pool: /Common/epmm, pool_type: aaaa, poll: 2s,
         nodes: {a: "/Common/main:vs1", b: "/Common/main:vs1", dr: "/Common/GTM_1:/Common/vs_192.0.2.1-8000"},
         username: lb-probe, password_file: tsig.key}
"""  # noqa: E501


def test_pools_of_a_big_ip_become_values(folder: Path) -> None:
    text = VALID.replace("    adapters:\n", EXTRA_NODE).replace("site: east", "candidate: true")
    group = read(folder, text.rstrip() + F5).groups[0]
    ltm, gtm = group.adapters[2:]

    assert isinstance(ltm, F5LtmAdapter)
    assert [str(host) for host in ltm.hosts] == [
        "https://10.0.0.5:443",
        "https://[2001:db8::5]:8443",
    ]
    assert (ltm.device_group, ltm.timeout_s, ltm.poll_s) == ("dg1", 5.0, 0.8)
    assert ltm.nodes["b"] == "/Common/2001:db8::11.443"
    assert isinstance(gtm, F5GtmAdapter)
    assert (gtm.pool_type, gtm.poll_s) == ("aaaa", 2.0)
    assert (
        "f5-ltm /Common/epmm at 10.0.0.5:443=/Common/192.0.2.10%10:443" in group.fingerprints["a"]
    )


def test_a_node_that_only_a_global_tier_knows_is_elsewhere_for_the_local_one(folder: Path) -> None:
    """R43: a tier above is one that has a site for several nodes; without it nothing is implied."""
    text = VALID.replace("    adapters:\n", EXTRA_NODE).replace("site: east", "candidate: true")
    tiers = read(folder, text.rstrip() + F5).groups[0]
    each_its_own = F5.replace('b: "/Common/main:vs1', 'b: "/Common/main:vs2')
    flat = read(folder, text.rstrip() + each_its_own)

    assert tiers.elsewhere == {name: {"dr"} for name in ("edge", "tcp", "bigip")}
    assert flat.groups[0].elsewhere == {}


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("c2Vj\n cmV0\n", "c2VjcmV0"),
        ('key "lb-probe" {\n\talgorithm hmac-sha256;\n\tsecret "c2VjcmV0";\n};\n', "c2VjcmV0"),
        ("# hmac-sha256:k:c2Vj\nkey:\n  - id: k\n    secret: c2VjcmV0\n", "c2VjcmV0"),
    ],
)
def test_a_key_file_holds_the_secret_or_what_the_tools_print(text: str, secret: str) -> None:
    assert parse_tsig_key(text) == secret


@pytest.mark.parametrize("text", ["", "no-base64", "c2V", "secret: ;"])
def test_a_key_file_without_a_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="the secret in base64"):
        parse_tsig_key(text)


def test_every_value_is_frozen(folder: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        read(folder, VALID).groups[0].act = False


def test_fingerprints_say_for_each_node_where_its_traffic_really_goes(folder: Path) -> None:
    text = VALID.replace("nodes: {a: s1, b: s2}}\n", "nodes: {b: s2, a: s1}}\n", 1).replace(
        "    adapters:\n", EXTRA_NODE.replace("dr,", "dr, candidate: false,")
    )

    group = read(folder, text.replace("site: east", "candidate: true")).groups[0]

    edge = f"{folder}/admin.sock app"
    assert group.fingerprints == {
        "a": f"url=192.0.2.10:443\n{edge}=s1\n127.0.0.1:9999 app=s1",
        "b": f"url=192.0.2.11:8080\n{edge}=s2\n127.0.0.1:9999 app=s2",
        "dr": "url=192.0.2.30:80",
    }


def test_a_node_that_is_probed_over_tls_now_keeps_its_fingerprint(folder: Path) -> None:
    with_tls = changed("http://192.0.2.11:8080", "https://192.0.2.11:8080")

    before, after = (read(folder, text).groups[0].fingerprints for text in (VALID, with_tls))

    assert before == after


def test_confirm_may_be_nothing_and_a_serving_deadline_may_not(folder: Path) -> None:
    group = read(folder, changed(ACT, f"{ACT}    confirm: 0s\n")).groups[0]
    assert (group.confirm_s, group.shape.confirm_s) == (0.0, 0.0)

    assert faults(folder, changed(ACT, f"{ACT}    serving_deadline: 0s\n")) == [
        '16:23: error: groups.epmm.serving_deadline: found "0s"; use 10ms to 1d'
    ]
    assert faults(folder, changed(ACT, f"{ACT}    confirm: -1s\n")) == [
        '16:14: error: groups.epmm.confirm: found "-1s"; use 0s to 1d'
    ]


def test_the_repositorys_own_file_is_valid() -> None:
    demo = load(ROOT / "probes.yaml")

    assert [node.url.port for node in demo.groups[0].nodes] == [8081, 8082]
    assert len((ROOT / "probes.yaml").read_text().splitlines()) <= 45


@pytest.mark.parametrize("newline", ["\r\n", "\r", "\n"])
def test_any_newline_and_a_byte_order_mark_are_fine(folder: Path, newline: str) -> None:
    text = "\ufeff" + VALID.replace("\n", newline)

    assert read(folder, text) == read(folder, VALID)


def test_the_reader_without_libyaml_reads_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read(folder, VALID)
    monkeypatch.setattr(yaml_text, "LOADER", yaml.SafeLoader)

    assert read(folder, VALID) == expected
    assert faults(folder, "[" * 50_000) == [
        "1:18: error: file: found more than 16 levels; use a flatter file"
    ]


@pytest.mark.parametrize("escape", ["\\ud800", "\\UFFFFFFFF"])
@pytest.mark.parametrize("loader", [yaml_text.LOADER, yaml.SafeLoader])
def test_an_escape_that_is_no_character_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, escape: str, loader: object
) -> None:
    monkeypatch.setattr(yaml_text, "LOADER", loader)

    (told,) = faults(folder, changed("interval: 2s, timeout", f'expect: "{escape}", timeout'))

    assert "broken YAML" in told or "half of a surrogate pair" in told


def test_a_file_of_two_hundred_groups_loads_within_a_second(folder: Path) -> None:
    head, group = VALID.split("groups:\n")
    groups = [
        group.replace("name: epmm", f"name: g{i}")
        .replace("backend: app", f"backend: app{i}")
        .replace("name: b\n", f"name: b{i}\n")
        .replace("b: s2", f"b{i}: s2")
        for i in range(200)
    ]
    started = time.process_time()

    read_config = read(folder, head + "groups:\n" + "".join(groups))

    assert len(read_config.groups) == 200
    assert time.process_time() - started < 1.0


MAP = (
    "{type: haproxy, name: edge, socket: admin.sock, map_file: /etc/maps/a.map, key: [k, k2],"
    " witness: off, shutdown_sessions: after 1s, nodes: {a: s1, b: s2}}"
)
EDGE = "{type: haproxy, name: edge, socket: admin.sock, backend: app, nodes: {a: s1, b: s2}}"
SENTRY = """
  - name: sentry
    act: true
    policy: active-active
    panic_threshold: 34%
    nodes:
      - {name: s1, url: "tls://192.0.2.21:9090", tls: {fingerprint: FINGERPRINT}}
      - {name: s2, url: "tcp://192.0.2.22:9090"}
      - {name: s3, url: "http://192.0.2.23"}
    adapters:
      - {type: haproxy, name: edge, socket: admin.sock, backend: g, nodes: {s1: g1, s2: g2, s3: g3}}
"""


def test_a_map_file_means_style_map_and_is_written_where_the_socket_is_a_path(folder: Path) -> None:
    (adapter, _) = read(folder, changed(EDGE, MAP)).groups[0].adapters
    assert (adapter.style, adapter.key, adapter.witness) == ("map", ("k", "k2"), "off")
    assert (adapter.local_file, adapter.shutdown_sessions_s) == (Path("/etc/maps/a.map"), 1.0)

    remote = changed(EDGE, MAP.replace("admin.sock", '"192.0.2.1:9999"'))
    assert read(folder, remote).groups[0].adapters[0].local_file is None
    closed = changed(EDGE, MAP.replace("witness", "local_file: none, witness"))
    assert read(folder, closed).groups[0].adapters[0].local_file is None
    elsewhere = changed(EDGE, MAP.replace("witness", "local_file: maps/a.map, witness"))
    assert read(folder, elsewhere).groups[0].adapters[0].local_file == folder / "maps/a.map"


def test_the_fingerprint_of_a_map_names_each_key(folder: Path) -> None:
    prints = read(folder, changed(EDGE, MAP)).groups[0].fingerprints
    assert f"{folder}/admin.sock /etc/maps/a.map[k2]=s1" in prints["a"]


def test_an_active_active_group_has_nodes_without_roles_or_pages(folder: Path) -> None:
    text = VALID + SENTRY.replace("FINGERPRINT", "sha256:" + ":".join(["AB"] * 32))
    group = read(folder, text).groups[-1]
    assert group.is_pool
    assert (group.pool.nodes, group.pool.floor) == (("s1", "s2", "s3"), 2)
    assert group.pool.adapters == ("edge",)
    assert [node.url.scheme for node in group.nodes] == ["tls", "tcp", "http"]


def test_a_member_is_asked_for_what_its_line_expects_and_never_for_a_mode(folder: Path) -> None:
    """R40: tcp, tls, and http with an expectation."""
    member = '{name: s3, url: "http://192.0.2.23", status_path: /ping, expect_status: 401}'
    sentry = SENTRY.replace("FINGERPRINT", "ab" * 32).replace(
        "tls: {fing", "tls: {insecure: true, fing"
    )
    text = VALID + sentry.replace('{name: s3, url: "http://192.0.2.23"}', member)
    asked = list(targets_of(read(folder, text).groups[-1]))
    assert [(one.node, one.page, one.expected) for one in asked] == [
        ("s1", Page.STATUS, None),
        ("s2", Page.STATUS, None),
        ("s3", Page.STATUS, Expected(401)),
    ]
    only_text = text.replace("expect_status: 401", "expect: pong")
    assert list(targets_of(read(folder, only_text).groups[-1]))[2].expected == Expected(200, "pong")
    (fault,) = faults(folder, text.replace("http://192.0.2.23", "tcp://192.0.2.23:80"))
    assert "s3.expect_status: found expect_status with a tcp url; use http or https" in fault
    (fault,) = faults(
        folder, changed("        role: primary\n", "        role: primary\n        expect: pong\n")
    )
    assert (
        "a.expect: found expect in a group of policy manual-resume; use a line without it" in fault
    )


@pytest.mark.parametrize(
    ("adapter", "found"),
    [
        (
            '{type: agent-check, name: asked, listen: "127.0.0.1:9700", nodes: NODES}',
            "found agent-check in an active-active group; use haproxy with style: server",
        ),
        (
            "{type: haproxy, name: edge, socket: /x.sock, backend: [a, b], nodes: NODES}",
            "found a list in an active-active group; use one backend for each adapter",
        ),
        (
            "{type: haproxy, name: edge, socket: /x.sock, map_file: /m, key: k, nodes: NODES}",
            "found a map in an active-active group; use style: server",
        ),
    ],
)
def test_an_adapter_that_carries_one_node_only_is_refused_for_a_pool(
    folder: Path, adapter: str, found: str
) -> None:
    adapter = adapter.replace("NODES", "{s1: g1, s2: g2, s3: g3}")
    text = VALID + SENTRY[: SENTRY.index("      - {type")] + f"      - {adapter}\n"
    (fault,) = faults(folder, text.replace("FINGERPRINT", "ab" * 32))
    assert found in fault


def test_a_listener_for_agent_checks_must_have_an_address_of_its_own(folder: Path) -> None:
    asked = '{type: agent-check, name: asked, listen: "127.0.0.1:9600", nodes: {a: a, b: b}}'
    text = changed(EDGE, asked)
    assert any('taken by "127.0.0.1:9600"' in fault for fault in faults(folder, text))


# ------------------------------------------------------------------ mistakes in single values
ACT = "    act: true\n"


@pytest.mark.parametrize(("text", "expected"), cases("values.yaml"))
def test_a_wrong_value_has_one_fault_at_its_place(
    folder: Path, text: str, expected: list[str]
) -> None:
    assert len(expected) == 1
    assert faults(folder, text) == expected


# ------------------------------------------------------------------ mistakes across values
EXTRA_NODE = '      - {name: dr, role: secondary, url: "http://192.0.2.30"}\n    adapters:\n'


@pytest.mark.parametrize(("text", "expected"), cases("rules.yaml"))
def test_rules_across_values_are_told_at_the_value_to_change(
    folder: Path, text: str, expected: list[str]
) -> None:
    assert faults(folder, text) == expected


def test_a_dr_site_beside_the_candidate_is_fine(folder: Path) -> None:
    text = VALID.replace("    adapters:\n", EXTRA_NODE).replace("site: east", "candidate: true")

    assert [n.candidate for n in read(folder, text).groups[0].nodes] == [False, True, False]


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(folder: Path) -> None:
    text = VALID.replace("listen: 127.0.0.1:8600", "listen: 0.0.0.0:8600, x").replace(
        "interval: 2s, fall", "interval: 1, fall"
    )
    text = text.replace("act: true", "act: on").replace("role: secondary", "role: primary")
    text = text.replace("name: tcp", "name: edge").replace("{a: s1, b: s2}", "{a: s1, c: s2}")

    told = faults(folder, text)

    assert [int(fault.split(":")[0]) for fault in told] == [5, 12, 15, 20, 25, 36, 37, 37]


# ------------------------------------------------------------------ mistakes of the text itself


@pytest.mark.parametrize(("text", "expected"), cases("texts.yaml"))
def test_a_broken_text_is_told_with_its_place(folder: Path, text: str, expected: list[str]) -> None:
    assert faults(folder, text)[: len(expected)] == expected


@pytest.mark.parametrize(
    ("text", "place", "found"),
    [
        (b"version: 1\na: \xff\n", "2:4", "byte 0xff; use UTF-8"),
        ("version: 1\n".encode("utf-16"), "1:1", "byte 0xff; use UTF-8"),
        (b" " * (4 * 1024 * 1024 + 1), "1:1", "more than 4 MiB; use a smaller file"),
        (b"[" * 50_000, "1:18", "more than 16 levels; use a flatter file"),
        (b"{a: " * 50_000, "1:69", "more than 16 levels; use a flatter file"),
        (b"? " + b"[" * 50_000, "1:19", "more than 16 levels; use a flatter file"),
        (b"[" + b"1," * 100_001 + b"]", "1:200000", "more than 100000 values; use a smaller file"),
    ],
    ids=["byte", "utf-16", "size", "lists", "mappings", "keys", "values"],
)
def test_bytes_made_to_hurt_are_refused_at_once(
    folder: Path, text: bytes, place: str, found: str
) -> None:
    assert faults(folder, text) == [f"{place}: error: file: found {found}"]


def test_values_under_a_repeated_key_count_as_well(folder: Path) -> None:
    expected = "100000:4: error: file: found more than 100000 values; use a smaller file"

    assert faults(folder, b"a: 1\n" * 100_001)[-1] == expected


@pytest.mark.parametrize(
    ("word", "reading"),
    [
        ("yes", "true"),
        ("No", "false"),
        ("on", "true"),
        ("OFF", "false"),
        ("y", "true"),
        ("12:30", "750"),
        ("0123", "83"),
        ("089", "a number"),
        ("0x1F", "31"),
        ("0o17", "a number"),
        ("1e3", "a number"),
        ("5_000", "5000"),
        ("2026-01-01", "a date"),
        ("2026-01-01 10:00:00", "a date"),
    ],
)
def test_a_word_that_other_yaml_tools_read_differently_must_be_quoted(
    folder: Path, word: str, reading: str
) -> None:
    (told,) = faults(folder, changed("site: east", f"site: {word}"))

    found = f"26:15: error: groups.epmm.nodes.b.site: found {word}, "
    assert told.startswith(f"{found}which other YAML tools read as {reading}; use ")
    assert told.endswith(f'quotes for text: "{word}"')


def test_billion_laughs_are_refused_as_aliases(folder: Path) -> None:
    lines = ["a0: &a0 [x]"] + [
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 20)
    ]

    told = faults(folder, "\n".join(lines))

    assert any("found alias *a0" in fault for fault in told)


def test_a_missing_file_and_a_folder_are_faults(tmp_path: Path) -> None:
    for path, why in [(tmp_path / "no.yaml", "No such file"), (tmp_path, "Is a directory")]:
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert caught.value.faults[0].startswith(f"{path}:1:1: error: file: found no readable file")
        assert why in caught.value.faults[0]


def test_faults_name_the_file_as_it_was_given(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "x.yaml").write_text("")
    monkeypatch.chdir(folder)

    with pytest.raises(ConfigError, match=r"^x\.yaml:1:1: error: "):
        load(Path("x.yaml"))


# ------------------------------------------------------------------ who reads
def test_a_secret_open_to_others_is_told_with_the_line_to_paste(folder: Path) -> None:
    (folder / "ops.token").chmod(0o644)

    assert faults(folder, VALID) == [
        "7:47: error: api.operators.ops.token_file: found mode 0644, open to others; "
        "use chmod o-rwx DIR/ops.token"
    ]


def test_an_empty_or_missing_secret_is_told(folder: Path) -> None:
    (folder / "ops.token").write_text(" \n")
    assert faults(folder, VALID) == [
        '7:47: error: api.operators.ops.token_file: found an empty file "ops.token"; '
        "use a file with the secret"
    ]
    (folder / "ops.token").unlink()
    assert faults(folder, VALID) == [
        '7:47: error: api.operators.ops.token_file: found no readable file "ops.token" '
        "(No such file or directory); use a file that this user may read"
    ]
    os.mkfifo(folder / "ops.token", 0o600)
    assert faults(folder, VALID) == [
        '7:47: error: api.operators.ops.token_file: found no regular file "ops.token"; '
        "use a regular file"
    ]


@pytest.mark.parametrize("raw", [b"\xff\xfe\n", "geheimnis-für-alle\n".encode(), b"one\ntwo\n"])
def test_a_token_that_no_header_can_carry_is_told(folder: Path, raw: bytes) -> None:
    (folder / "ops.token").write_bytes(raw)

    assert faults(folder, VALID) == [
        '7:47: error: api.operators.ops.token_file: found no token in "ops.token"; use one line of'
        " visible ASCII signs without blanks, e.g. of `openssl rand -hex 32`"
    ]


def test_a_certificate_file_must_hold_one(folder: Path) -> None:
    (folder / "ca.pem").write_text("hello")
    place = "23:55: error: groups.epmm.nodes.a.tls.ca_file"
    assert faults(folder, VALID) == [f'{place}: found no certificate in "ca.pem"; use a PEM file']
    (folder / "ca.pem").write_text(A_CERTIFICATE.replace("MIIB", "MIIC"))
    assert faults(folder, VALID) == [
        f'{place}: found a certificate that cannot be read in "ca.pem" (pem lib); use a PEM file'
    ]
    (folder / "ca.pem").unlink()
    assert "found no readable file" in faults(folder, VALID, "prober")[0]


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_a_certificate_needs_the_key_that_belongs_to_it(folder: Path) -> None:
    def openssl(words: str) -> None:
        subprocess.run(["openssl", *words.split()], cwd=folder, check=True, capture_output=True)

    new = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -subj /CN=x"
    openssl(f"req -x509 {new} -noenc -keyout own.key -out own.pem")
    openssl(f"req -x509 {new} -noenc -keyout other.key -out other.pem")
    openssl(f"req -x509 {new} -passout pass:x -keyout locked.key -out locked.pem")
    both = (folder / "own.pem").read_bytes() + (folder / "own.key").read_bytes()
    (folder / "both.pem").write_bytes(both)
    (folder / "both.pem").chmod(0o600)

    def told(cert: str, key: str) -> list[str]:
        old = "listen: 127.0.0.1:8600"
        tls = f"cert_file: {cert}" + (f", key_file: {key}" if key else "")
        text = changed(old, f"{old}\n  tls: {{{tls}}}")
        try:
            read(folder, text)
        except ConfigError as error:
            return [fault.partition("error: ")[2] for fault in error.faults]
        return []

    use = "use a certificate in PEM and the key that belongs to it, no password"
    found = "api.tls.cert_file: found a certificate or a key that cannot be used in"
    assert told("own.pem", "own.key") == []
    assert told("both.pem", "") == []
    mismatch = f'{found} "own.pem" with "other.key" (key values mismatch); {use}'
    assert told("own.pem", "other.key") == [mismatch]
    assert told("locked.pem", "locked.key") == [
        f'{found} "locked.pem" with "locked.key" (pem lib); {use}'
    ]
    assert told("own.pem", "") == [
        f"api.tls.cert_file: found mode 0644, open to others; use chmod o-rwx {folder}/own.pem"
    ]


@pytest.mark.parametrize("as_", ["client", "agent:b"])
def test_a_process_checks_only_the_secrets_that_it_uses(folder: Path, as_: str) -> None:
    (folder / "ops.token").unlink()
    (folder / "ca.pem").unlink()

    assert read(folder, VALID, as_).groups[0].name == "epmm"
    assert len(faults(folder, VALID, "prober")) == 2


def test_an_agent_must_be_in_the_file(folder: Path) -> None:
    assert faults(folder, VALID, "agent:a") == [
        "20:9: error: groups.epmm.nodes.a: found no agent; "
        "use agent: {listen: ..., control: ...} in it"
    ]
    assert faults(folder, VALID, "agent:bb") == [
        '14:3: error: groups: found no node "bb" (did you mean b?); use one of: b'
    ]
    assert faults(folder, VALID, "agnet") == [
        '1:1: error: file: found --as "agnet"; use prober, agent:NAME, client or check'
    ]


# ------------------------------------------------------------------ any bytes at all
FUZZ = settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
MARKS = "\n|\n  |- |: |{|}|[|]|&a |*a|<<: |? |>|!!x |\"|'|#|\t|\\|%YAML 1.1\n|---\n|...\n|no|0x1|="
ODD = [
    "|\n",
    "\x85",
    '"\\ud800"',
    '"\\0"',
    '"\\UFFFFFFFF"',
    "9" * 5000,
    "12:" * 9,
    "2026-99-99",
    "://",
]
PIECES = st.sampled_from([*VALID.split(), *MARKS.split("|"), *ODD])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | PIECES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(VALID.replace(":", " ").split()), inner, max_size=4)
    ),
    max_leaves=20,
)


def refusal(folder: Path, text: bytes) -> tuple[str, ...] | None:
    try:
        read(folder, text)
    except ConfigError as error:
        return error.faults
    return None


def loads_or_refuses(folder: Path, text: bytes) -> None:
    for loader in (getattr(yaml, "CSafeLoader", yaml.SafeLoader), yaml.SafeLoader):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(yaml_text, "LOADER", loader)
            told = refusal(folder, text)
            assert told is None or told
            for fault in told or ():
                assert re.fullmatch(r".*:\d+:\d+: error: \S.*: found .+; use .+", fault), fault


@pytest.mark.timeout(300)
@FUZZ
@given(st.binary() | st.text().map(str.encode))
@example(b'a: "\\ud800"')
@example(b"a: 12:30:99999999999999999999999999")
def test_no_bytes_make_load_raise_anything_else(folder: Path, raw: bytes) -> None:
    loads_or_refuses(folder, raw)


@pytest.mark.timeout(300)
@FUZZ
@given(st.lists(PIECES, max_size=40).map("".join))
def test_no_yaml_like_text_makes_load_raise_anything_else(folder: Path, text: str) -> None:
    loads_or_refuses(folder, text.encode())


@pytest.mark.timeout(300)
@FUZZ
@given(st.data())
def test_no_change_of_a_valid_file_makes_load_raise_anything_else(
    folder: Path, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(VALID)))
    end = data.draw(st.integers(start, min(start + 30, len(VALID))))
    new = data.draw(PIECES | st.text(alphabet=string.printable, max_size=5))

    loads_or_refuses(folder, (VALID[:start] + new + VALID[end:]).encode())


@pytest.mark.timeout(300)
@FUZZ
@given(st.data())
def test_no_value_in_any_place_makes_load_raise_anything_else(
    folder: Path, data: st.DataObject
) -> None:
    tree = yaml.safe_load(VALID)
    place: Any = tree
    while True:
        key = data.draw(
            st.sampled_from(list(place) if isinstance(place, dict) else range(len(place)))
        )
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(VALUES)

    loads_or_refuses(folder, json.dumps(tree).encode())


# ------------------------------------------------------------------ addresses
@pytest.mark.parametrize("text", ["127.0.0.1:80", "[::1]:80", "epmm_a.example.com:65535"])
def test_an_address_prints_as_it_reads(text: str) -> None:
    assert str(Address.parse(text)) == text


def test_loopback_is_told_from_the_rest() -> None:
    local = ["127.0.0.2:1", "[::1]:1", "localhost:1", "[::ffff:127.0.0.1]:1"]
    assert all(Address.parse(text).is_loopback for text in local)
    far = ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "example.com:1"]
    assert not any(Address.parse(text).is_loopback for text in far)
    assert replace(Address("::1", 1), port=2) == Address.parse("[0:0::1]:2")


# ------------------------------------------------------------------ schema and page
def test_the_schema_in_docs_is_the_generated_one() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lb_probe.config"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )

    assert (DOCS / "probes.schema.json").read_text() == done.stdout


def test_the_schema_takes_what_load_takes_and_refuses_plain_mistakes() -> None:
    schema = json.loads((DOCS / "probes.schema.json").read_text())

    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert accepts(schema, yaml.safe_load(VALID), schema)
    assert accepts(schema, yaml.safe_load((ROOT / "probes.yaml").read_text()), schema)
    for old, new in [
        ("interval: 2s, fall", "interval: 1, fall"),
        ("fall: 5", "fal: 5"),
        ("fall: 5", "fall: 0"),
        (ACT, ""),
        ("role: secondary", "role: standby"),
        ("type: tcp, address", "type: tcp, url"),
        ("name: epmm\n", "name: e e\n"),
        ("version: 1", "version: 2"),
    ]:
        assert not accepts(schema, yaml.safe_load(changed(old, new)), schema), new


TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "boolean": bool,
    "null": type(None),
}
NOTES = {"$schema", "title", "description", "default", "definitions"}
WORDS: dict[str, Any] = {
    "type": lambda want, v, s, r: (
        isinstance(v, TYPES[want]) and (want == "boolean" or v is not True)
    ),
    "enum": lambda want, v, s, r: v in want,
    "const": lambda want, v, s, r: v == want,
    "pattern": lambda want, v, s, r: not isinstance(v, str) or re.search(want, v),
    "minimum": lambda want, v, s, r: not isinstance(v, int) or v >= want,
    "maximum": lambda want, v, s, r: not isinstance(v, int) or v <= want,
    "minItems": lambda want, v, s, r: not isinstance(v, list) or len(v) >= want,
    "items": lambda want, v, s, r: not isinstance(v, list) or all(accepts(want, i, r) for i in v),
    "required": lambda want, v, s, r: not isinstance(v, dict) or set(want) <= set(v),
    "anyOf": lambda want, v, s, r: any(accepts(one, v, r) for one in want),
    "oneOf": lambda want, v, s, r: sum(accepts(one, v, r) for one in want) == 1,
    "allOf": lambda want, v, s, r: all(accepts(one, v, r) for one in want),
    "$ref": lambda want, v, s, r: accepts(r["definitions"][want.rpartition("/")[2]], v, r),
    "properties": lambda want, v, s, r: (
        not isinstance(v, dict) or all(accepts(one, v[k], r) for k, one in want.items() if k in v)
    ),
    "additionalProperties": lambda want, v, s, r: (
        not isinstance(v, dict)
        or all(
            want is not False and accepts(want, v[k], r)
            for k in v
            if k not in s.get("properties", {})
        )
    ),
}


def accepts(schema: dict[str, Any], value: object, root: dict[str, Any]) -> bool:
    """Judge by the draft-7 words the schema may use; any other word is a KeyError."""
    assert "$ref" not in schema or len(schema) == 1  # draft 7 ignores what stands beside it
    return all(
        WORDS[word](want, value, schema, root) for word, want in schema.items() if word not in NOTES
    )


def page_rows() -> dict[str, dict[str, str]]:
    """Return heading -> key -> default, as docs/configuration.md has them."""
    rows: dict[str, dict[str, str]] = {}
    for section in (DOCS / "configuration.md").read_text().split("\n### ")[1:]:
        title, _, body = section.partition("\n")
        keys = re.findall(r"^\| `(\w+)` \| .+ \| (.+) \|$", body, flags=re.M)
        for name in re.findall("`([^`]+)`", title) or [""]:
            rows[name] = dict(keys)
    return rows


def default_in_words(field: Any) -> str:
    if field.is_required():
        return "-"
    if field.default_factory is not None or field.default in (None, ""):
        return "none"
    words = yaml.safe_dump(field.default, default_flow_style=True, width=200).splitlines()[0]
    return f"`{words}`"


def test_the_page_names_every_key_with_its_default() -> None:
    expected = {
        ".".join(where): {key: default_in_words(field) for key, field in fields.items()}
        for where, fields in KEYS.items()
    }
    expected["limits"]["failovers_per_minute"] = "`null`"

    assert page_rows() == expected
