"""A first probes.yaml read off real HAProxys; it must load as it is."""

from pathlib import Path

import pytest

from lb_probe.adapters.haproxy import RuntimeApi
from lb_probe.advice.haproxy_config import config_text
from lb_probe.advice.haproxy_discover import probes_yaml
from lb_probe.advice.haproxy_doctor import examine
from lb_probe.config import Config, load
from lb_probe.config.model import HaproxyAdapter
from lb_probe.core.model import Role
from lb_probe.ports import NotFound

HEAD = """
global
    stats socket {folder}/admin.sock mode 600 level admin
    maxconn 100
defaults
    mode tcp
    timeout connect 1s
    timeout client 1s
    timeout server 1s
"""


@pytest.fixture
def discover(haproxy, tmp_path: Path):
    """Start a HAProxy with these backends; return what is written, and that file loaded."""

    async def run(text: str) -> tuple[str, Config]:
        await haproxy.start(HEAD.format(folder=haproxy.folder) + text)
        api = RuntimeApi(haproxy.admin, timeout_s=10)
        written = await probes_yaml(api, haproxy.admin)
        path = tmp_path / "probes.yaml"
        path.write_text(written)
        return written, load(path)

    return run


def only_adapter(config: Config, group: int = 0) -> HaproxyAdapter:
    (adapter,) = config.groups[group].adapters
    assert isinstance(adapter, HaproxyAdapter)
    return adapter


async def test_a_backup_backend_becomes_a_group_that_only_observes(discover, haproxy):
    written, config = await discover(
        "backend epmm\n    server b 192.0.2.11:443 backup\n    server a 192.0.2.10:443\n"
    )
    (group,) = config.groups
    assert (group.name, group.act) == ("epmm", False)
    assert [(n.name, n.role, str(n.url)) for n in group.nodes] == [
        ("a", Role.PRIMARY, "https://192.0.2.10:443"),
        ("b", Role.SECONDARY, "https://192.0.2.11:443"),
    ]
    adapter = only_adapter(config)
    assert (adapter.style, adapter.backend, adapter.socket) == ("server", ("epmm",), haproxy.admin)
    assert "is a the primary? It is taken for it because all others are backup" in written
    assert "remove `backup` in haproxy.cfg" in written


async def test_the_doctor_then_names_what_is_wrong_with_it(discover, haproxy):
    _, config = await discover(
        "backend epmm\n    server a 192.0.2.10:443\n    server b 192.0.2.11:443 backup\n"
    )
    api = RuntimeApi(haproxy.admin, timeout_s=10)
    found = await examine(api, only_adapter(config), config.groups[0], [haproxy.file])
    assert {"backup", "not-disabled"} <= {finding.code for finding in found}


async def test_names_that_yaml_would_read_as_something_else_stay_names(discover):
    _, config = await discover(
        "backend no\n    server on 192.0.2.10:80\n    server 0123 192.0.2.11:80\n"
        "    server a:b.c_d-e 192.0.2.12:80\n"
    )
    (group,) = config.groups
    assert group.name == "no"
    assert {n.name for n in group.nodes} == {"on", "0123", "a:b.c_d-e"}
    assert [n.candidate for n in group.nodes].count(True) == 1


async def test_ipv6_and_the_scheme_by_port_or_tls(discover):
    _, config = await discover(
        "backend v6\n    server a [2001:db8::1]:8443\n    server b [2001:db8::2]:8080\n"
        "backend tls\n    server a 192.0.2.10:9443 ssl verify none\n"
        "    server b 192.0.2.11 ssl verify none\n"
    )
    urls = {g.name: sorted(str(n.url) for n in g.nodes) for g in config.groups}
    assert urls == {
        "v6": ["http://[2001:db8::2]:8080", "https://[2001:db8::1]:8443"],
        "tls": ["https://192.0.2.10:9443", "https://192.0.2.11:443"],
    }


async def test_a_map_that_names_backends_becomes_style_map(discover, haproxy):
    map_file = haproxy.folder / "active.map"
    map_file.write_text("epmm b\nepmm:owner b\n/path other\n")
    written, config = await discover(
        f"frontend f\n    bind {haproxy.front}\n"
        f"    use_backend pool_%[str(epmm),map({map_file},none)]\n"
        "backend pool_a\n    server a 192.0.2.10:443\n"
        "backend pool_b\n    server b 192.0.2.11:443\n"
        "backend solo\n    server s 192.0.2.12:443\n"
    )
    (group,) = config.groups
    assert group.name == "epmm"
    assert [n.name for n in group.nodes] == ["b", "a"]  # the map names b
    adapter = only_adapter(config)
    assert (adapter.style, adapter.map_file, adapter.key) == ("map", str(map_file), ("epmm",))
    assert (adapter.backend_prefix, adapter.nodes) == ("pool_", {"a": "a", "b": "b"})
    assert "owner" not in written
    assert "because the map names it now" in written


async def test_a_map_that_says_none_is_known_by_the_usual_prefix(discover, haproxy):
    map_file = haproxy.folder / "active.map"
    map_file.write_text("epmm none\n")
    _, config = await discover(
        f"frontend f\n    bind {haproxy.front}\n"
        f"    use_backend pool_%[str(epmm),map({map_file},none)]\n"
        "backend pool_a\n    server a 192.0.2.10:443\n"
        "backend pool_b\n    server b 192.0.2.11:443\n"
    )
    assert only_adapter(config).style == "map"


async def test_a_map_that_routes_is_no_service(discover, haproxy):
    map_file = haproxy.folder / "hosts.map"
    map_file.write_text("x.example web_1\ny.example web_2\n")
    written, config = await discover(
        f"frontend f\n    bind {haproxy.front}\n    use_backend %[str(x),map({map_file})]\n"
        "backend web_1\n    server a 192.0.2.10:443\n"
        "backend web_2\n    server b 192.0.2.11:443\n"
        "backend epmm\n    server a 192.0.2.20:443\n    server b 192.0.2.21:443\n"
    )
    assert [group.name for group in config.groups] == ["epmm"]
    assert f"# left out: key x.example of {map_file}: other keys lead to others" in written


async def test_values_that_are_whole_backend_names_have_no_prefix(discover, haproxy):
    map_file = haproxy.folder / "active.map"
    map_file.write_text("svc epmm-a\n")
    _, config = await discover(
        f"frontend f\n    bind {haproxy.front}\n    use_backend %[str(svc),map({map_file},none)]\n"
        "backend epmm-a\n    server x 192.0.2.10:443\n"
        "backend epmm-b\n    server x 192.0.2.11:443\n"
        "backend other\n    server x 192.0.2.12:443\n"
    )
    adapter = only_adapter(config)
    assert (adapter.backend_prefix, set(adapter.nodes)) == ("", {"epmm-a", "epmm-b"})


async def test_what_cannot_be_a_group_is_left_out_with_its_reason(discover):
    written, config = await discover(
        "backend good\n    server a 192.0.2.10:443\n    server b 192.0.2.11:443\n"
        "backend twice\n    server a 192.0.2.10:443\n    server b 192.0.2.10:443\n"
        "backend local\n    server a 169.254.1.1:443\n    server b 192.0.2.11:443\n"
        "backend sockets\n    server a unix@/tmp/x.sock\n    server b 192.0.2.11:443\n"
        "backend one\n    server a 192.0.2.10:443\n"
    )
    assert [group.name for group in config.groups] == ["good"]
    assert "# left out: backend twice: two servers have one address" in written
    assert "# left out: backend local: server a has the address 169.254.1.1" in written
    assert "# left out: backend sockets: server a has no IP address now" in written
    assert "one:" not in written


async def test_the_one_that_is_ready_is_taken_for_the_primary(discover):
    written, config = await discover(
        "backend epmm\n    server a 192.0.2.10:443 disabled\n    server b 192.0.2.11:443\n"
        "backend both\n    server a 192.0.2.10:80\n    server b 192.0.2.11:80\n"
    )
    assert [n.name for n in config.groups[0].nodes] == ["b", "a"]
    assert "it alone is ready now" in written
    assert "2 servers get traffic today" in written


async def test_a_haproxy_without_any_pair_is_told_to_begin_with_a_configuration(haproxy):
    await haproxy.start(
        HEAD.format(folder=haproxy.folder) + "backend one\n    server a 192.0.2.10:443\n"
    )
    with pytest.raises(NotFound, match="no backend with two servers"):
        await probes_yaml(RuntimeApi(haproxy.admin, timeout_s=10), haproxy.admin)


async def test_what_we_print_is_read_back_as_the_same_adapter(discover, haproxy, make_group):
    map_file = haproxy.folder / "active.map"
    map_file.write_text("epmm none\n")
    group = make_group(
        f"- {{type: haproxy, name: e, socket: {haproxy.admin}, map_file: {map_file}, key: epmm,"
        " nodes: {epmm-a: a, epmm-b: b}}"
    )
    (adapter,) = group.adapters
    assert isinstance(adapter, HaproxyAdapter)
    text = config_text(group, adapter).replace("bind :443", f"bind {haproxy.front}")
    await haproxy.start(text)
    written = await probes_yaml(RuntimeApi(haproxy.admin, timeout_s=10), haproxy.admin)
    path = haproxy.folder / "probes.yaml"
    path.write_text(written)
    found = only_adapter(load(path))
    same = ("style", "socket", "map_file", "key", "backend_prefix", "local_file")
    assert [getattr(found, key) for key in same] == [getattr(adapter, key) for key in same]
    assert set(found.nodes.values()) == set(adapter.nodes.values())
