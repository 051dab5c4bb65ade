"""Third pass: rules that span several values, judged on the plain data.

Not on the models: one bad value must not hide a second primary.
"""

import os
from collections.abc import Callable, Iterable

from lb_probe.config import agent_rules, dns_rules, f5_rules, files, notify_rules
from lb_probe.config.address import Address, Url
from lb_probe.config.source import Source, Spot, nearest, shown
from lb_probe.config.values import parse_haproxy_socket


def judge(source: Source, as_: str) -> None:
    """Note every fault for one reader; see `load` for `as_`."""
    root, groups = source.at(()), source.at(()).items("groups")
    if root.at("groups").value == ():
        root.at("groups").fault("no group", "at least one")
    _unique([group.at("name") for group in groups], "a group name")
    for group in groups:
        _judge_group(group)
    _judge_old_names(groups)
    adapters = [a for group in groups for a in group.items("adapters")]
    _unique([place for a in adapters for place in _places(a)], "a backend or key", key=_moves)
    dns_rules.judge(adapters, _nodes(groups))
    f5_rules.judge(adapters)
    _unique(_agents(groups), "a node name")  # `agent --node NAME` names no group
    _judge_listeners(root, _nodes(groups))
    _judge_api(root.at("api"))
    notify_rules.judge(root.at("notify"), groups)
    if as_.startswith("agent:"):
        _judge_agent(root, as_.removeprefix("agent:"))
    elif as_ in {"prober", "check"}:
        _judge_files(root)
    elif as_ != "client":
        use = "prober, agent:NAME, client or check"
        source.fault((), f"--as {shown(as_)}", use, mark=(1, 1))


def _nodes(groups: Iterable[Spot]) -> list[Spot]:
    return [node for group in groups for node in group.items("nodes")]


def _agents(groups: Iterable[Spot]) -> list[Spot]:
    """Return the names of the nodes that have an agent."""
    return [node.at("name") for node in _nodes(groups) if node.at("agent").value is not None]


def _unique(
    spots: Iterable[Spot], what: str, key: Callable[[Spot], str | None] = lambda spot: spot.text
) -> None:
    first: dict[str, Spot] = {}
    for spot in spots:
        text = key(spot)
        if text is not None and (before := first.setdefault(text, spot)) is not spot:
            found = f"{shown(text)} again, first on line {before.line}"
            spot.fault(found, f"{what} of its own")


def _only(spots: list[Spot], what: str) -> None:
    for extra in spots[1:]:
        found = f"a second {what}, first on line {spots[0].line}"
        extra.fault(found, f"one {what} a group")


# ------------------------------------------------------------------ one group
def _judge_group(group: Spot) -> None:
    nodes = group.items("nodes")
    _unique([node.at("name") for node in nodes], "a node name")
    _unique([node.at("url") for node in nodes], "an address", key=_address)
    for node in nodes:
        scheme = (node.at("url").text or "").partition(":")[0]
        if node.at("tls").value is not None and scheme in {"http", "tcp"}:
            node.at("tls").fault(f"tls with a {scheme} url", "https, or leave tls out")
        _judge_expectation(node, scheme, is_member=group.at("policy").value == "active-active")
        _judge_pair(node.at("tls"))
        _unique(node.items("agent", "checks"), "a check name", key=_check_name)
        agent_rules.judge(node, [other.at("name").text for other in nodes])
    agent_rules.judge_peers(nodes)
    if group.at("policy").value == "active-active":
        needed = _judge_members(nodes)
    else:
        needed = _judge_roles(group, nodes)
    _unique([a.at("name") for a in group.items("adapters")], "an adapter name")
    for adapter in group.items("adapters"):
        _judge_adapter(adapter)
        _judge_words(adapter)
        if group.at("policy").value == "active-active":
            _judge_pool_adapter(adapter)
        if isinstance(adapter.at("nodes").value, dict):
            _judge_servers(adapter.at("nodes"), [node.at("name").text for node in nodes], needed)


def _judge_pair(tls: Spot) -> None:
    """A certificate and its key go together."""
    for one, other in (("cert_file", "key_file"), ("key_file", "cert_file")):
        if tls.at(one).value is not None and tls.at(other).value is None:
            tls.at(other).fault("nothing", f"a file, as {one} is given")


def _address(url: Spot) -> str | None:
    parsed = url.parsed(Url.parse_any)
    return str(parsed.address) if parsed else None


def _check_name(check: Spot) -> str | None:
    default = f"{check.at('type').text}-{int(check.where[-1]) + 1}"
    return default if check.at("name").value is None else check.at("name").text


def _judge_expectation(node: Spot, scheme: str, *, is_member: bool) -> None:
    """A page of one's own words is for members: the pages of a pair have the guide's."""
    for key in ("expect_status", "expect"):
        if node.at(key).value is None:
            continue
        if not is_member:
            use = "a line without it; what the two pages say is fixed"
            node.at(key).fault(f"{key} in a group of policy manual-resume", use, at_key=True)
        elif scheme in {"tcp", "tls"}:
            use = "http or https, or a line without it"
            node.at(key).fault(f"{key} with a {scheme} url", use, at_key=True)


def _judge_members(nodes: list[Spot]) -> list[str]:
    """Judge an active-active group, where all are equal; return the names of all."""
    for node in nodes:
        for key in ("role", "candidate"):
            if node.at(key).value is not None:
                found = f"{key} in an active-active group, where all nodes are equal"
                node.at(key).fault(found, "a line without it", at_key=True)
    return [name for node in nodes if (name := node.at("name").text)]


_BOTH = ("type", "name", "nodes", "socket", "tls", "master", "style", "shutdown_sessions")
_STYLES = {
    "map": (*_BOTH, "map_file", "key", "local_file", "backend_prefix", "witness", "check_interval"),
    "server": (*_BOTH, "backend", "witness", "check_interval"),
}


def _style(adapter: Spot) -> str | None:
    """Return the style of a haproxy adapter, said or implied; None where it has none."""
    if adapter.at("type").text != "haproxy":
        return None
    implied = "map" if adapter.at("map_file").value is not None else "server"
    said = adapter.at("style").text or implied
    return said if said in _STYLES else None


def _judge_pool_adapter(adapter: Spot) -> None:
    """Refuse what can carry one node only."""
    where = "in an active-active group"
    if adapter.at("type").text != "haproxy":
        use = "haproxy with style: server; others carry one node only"
        adapter.at("type").fault(f"{adapter.at('type').text} {where}", use)
    elif _style(adapter) == "map":
        use = "style: server; a map names one backend only"
        adapter.at("map_file").fault(f"a map {where}", use)
    elif adapter.items("backend"):
        adapter.at("backend").fault(f"a list {where}", "one backend for each adapter")


def _judge_adapter(adapter: Spot) -> None:
    style = _style(adapter)
    if style is None or not isinstance(adapter.value, dict):
        return
    needs = {
        "map_file": "the map file as HAProxy's configuration spells it",
        "key": "the key, or the list of keys, whose value is the assignment",
        "backend": "the backend whose servers are set, or map_file and key for style map",
    }
    for key, use in needs.items():
        if key in _STYLES[style] and adapter.at(key).value is None:
            adapter.at(key).fault("nothing", use)
    for key in adapter.value:
        if key not in _STYLES[style] and any(key in keys for keys in _STYLES.values()):
            found = f"a key of style {'map' if style == 'server' else 'server'} in style {style}"
            adapter.at(key).fault(found, "the keys of one style", at_key=True)
    is_path = adapter.at("socket").parsed(Address.parse) is None
    if adapter.at("tls").value is not None and is_path:
        adapter.at("tls").fault("tls with a UNIX socket", "host:port as socket, or leave it out")


def _judge_words(adapter: Spot) -> None:
    for word in adapter.at("nodes").items():
        if adapter.at("type").text == "command" and word.text == "none":
            use = "another word: `read` prints none where nobody has the traffic"
            word.fault('"none"', use)


def _judge_roles(group: Spot, nodes: list[Spot]) -> list[str]:
    """Judge who is primary and who is candidate; return the names every adapter must know."""
    place = group.at("nodes")
    primaries = [node for node in nodes if node.at("role").text == "primary"]
    secondaries = [node for node in nodes if node.at("role").text == "secondary"]
    for node in nodes:
        if isinstance(node.value, dict) and node.at("role").value is None:
            node.at("role").fault("nothing", "primary or secondary")
        if (node.at("url").text or "").startswith(("tcp:", "tls:")):
            use = "http:// or https://: only nodes of an active-active group have no pages"
            node.at("url").fault(shown(node.at("url").text), use)
    if not isinstance(place.value, tuple) or len(primaries) + len(secondaries) < len(nodes):
        return []  # told already, and nobody knows what was meant
    if not primaries:
        place.fault("no primary", "role: primary on one node")
    if not secondaries:
        place.fault("no secondary", "role: secondary on at least one node")
    _only([node.at("role") for node in primaries], "primary")
    for node in primaries:
        if node.at("candidate").value is True:
            node.at("candidate").fault("true on a primary", "it on a secondary")
    chosen = primaries[:1] + _judge_candidate(place, secondaries)
    return [name for node in chosen if (name := node.at("name").text)]


def _judge_candidate(place: Spot, secondaries: list[Spot]) -> list[Spot]:
    if len(secondaries) == 1:
        said = secondaries[0].at("candidate")
        if said.value is False:
            said.fault("false on the only secondary", "true, or leave the key out")
        return secondaries
    marked = [node for node in secondaries if node.at("candidate").value is True]
    if secondaries and not marked:
        use = "candidate: true on the one that automation may choose"
        place.fault(f"{len(secondaries)} secondaries and no candidate", use)
    _only([node.at("candidate") for node in marked], "candidate")
    return marked[:1]


def _judge_servers(servers: Spot, names: list[str | None], needed: list[str]) -> None:
    kind = servers.source.at(servers.where[:-1]).at("type").text
    is_by_site = kind == "f5-gtm" and len({spot.text for spot in servers.items()}) > 1
    if kind != "dns" and not is_by_site:  # by their own rules; nodes of one site share a server
        _unique(servers.items(), "a server")
    said = {str(spot.where[-1]): spot for spot in servers.items()}
    for name, spot in said.items():
        if None not in names and name not in names:
            meant, use = nearest(name, [known for known in names if known])
            spot.fault(f"no such node in the group{meant}", use, at_key=True)
    for name in needed:
        if name not in said:
            servers.fault(f"no server for {shown(name)}", f"{name}: SERVER in it")


# ------------------------------------------------------------------ all groups
def _judge_old_names(groups: list[Spot]) -> None:
    names = {group.at("name").text for group in groups}
    _unique([group.at("was") for group in groups], "an old name")
    for was in (group.at("was") for group in groups):
        if was.text is not None and was.text in names:
            was.fault("the name of a group in this file", "the old name, or leave it out")


def _places(adapter: Spot) -> list[Spot]:
    """Return the backends or keys that an adapter moves."""
    style = _style(adapter)
    said = adapter.at("key" if style == "map" else "backend")
    if style is None:
        return []
    return said.items() if isinstance(said.value, tuple) else [said]


def _moves(place: Spot) -> str | None:
    """Return what is moved, however its socket is spelled; None where it cannot be told."""
    where = place.where[: place.where.index("adapters") + 2]
    adapter = place.source.at(where)
    socket = adapter.at("socket").parsed(
        lambda text: parse_haproxy_socket(text, place.source.folder)
    )
    if socket is None or place.text is None:
        return None
    device = str(socket) if isinstance(socket, Address) else os.path.normpath(socket)
    if _style(adapter) == "map":
        return f"key {place.text} of {adapter.at('map_file').text} on {device}"
    return f"backend {place.text} on {device}"


def _judge_listeners(root: Spot, nodes: list[Spot]) -> None:
    """No address is listened on twice; agents on loopback or on all addresses have own hosts."""
    taken: list[tuple[Address, Spot]] = []
    ours = [root.at("api", "listen"), root.at("metrics", "listen")]
    ours += [a.at("listen") for g in root.items("groups") for a in g.items("adapters")]
    for spot in [*ours, *(node.at("agent", "listen") for node in nodes)]:
        address = spot.parsed(Address.parse)
        if address is None or (spot not in ours and (address.is_loopback or address.is_any)):
            continue
        for other, before in taken:
            is_host = address.host == other.host or address.is_any or other.is_any
            if is_host and address.port == other.port:
                found = f"{shown(spot.text)}, taken by {shown(before.text)} on line {before.line}"
                spot.fault(found, "another port")
        taken.append((address, spot))


def _judge_api(api: Spot) -> None:
    listen = api.at("listen")
    address = listen.parsed(Address.parse)
    is_encrypted = api.at("tls").value is not None
    if address is not None and not address.is_loopback and not is_encrypted:
        use = "a loopback address such as 127.0.0.1:8600, or tls: {cert_file: ...} beside it"
        listen.fault(shown(listen.text), use)
    if is_encrypted and listen.value is None:
        api.at("tls").fault("tls without listen", "listen: HOST:PORT beside it")
    if isinstance(api.value, dict) and not {"listen", "socket"} & api.value.keys():
        api.fault("neither socket nor listen", "one of them, or leave api out")
    _unique([operator.at("name") for operator in api.items("operators")], "a name")


# ------------------------------------------------------------------ one reader
def _judge_agent(root: Spot, name: str) -> None:
    groups = root.items("groups")
    known = [text for spot in _agents(groups) if (text := spot.text)]
    if name in known:
        for group in groups:
            _judge_peers(group, name)
        return
    for node in _nodes(groups):
        if node.at("name").text == name:
            node.fault("no agent", "agent: {listen: ..., control: ...} in it")
            return
    meant, use = nearest(name, known)
    use = use if known else "a node with agent: in it"
    root.at("groups").fault(f"no node {shown(name)}{meant}", use)


def _judge_peers(group: Spot, name: str) -> None:
    """What one agent reads: its secret, and with a heartbeat what proves the others' pages."""
    nodes = group.items("nodes")
    own = [node for node in nodes if node.at("name").text == name]
    for node in own:
        files.judge_secret(node.at("agent", "report", "secret_file"))
    if own and own[0].at("agent", "heartbeat").value is not None:
        for node in nodes:
            _judge_tls(node.at("tls"))


def _judge_files(root: Spot) -> None:
    notify_rules.judge_installed(root.at("notify"))
    notify_rules.judge_files(root.at("notify"))
    for operator in root.items("api", "operators"):
        files.judge_token(operator.at("token_file"))
    tls = root.at("api", "tls")
    files.judge_chain(tls.at("cert_file"), tls.at("key_file"), may_be_one=True)
    files.judge_authorities(tls.at("client_ca_file"))
    for node in _nodes(root.items("groups")):
        _judge_tls(node.at("tls"))
        files.judge_secret(node.at("agent", "report", "secret_file"))
    for group in root.items("groups"):
        for adapter in group.items("adapters"):
            _judge_tls(adapter.at("tls"))
            files.judge_text(adapter.at("password_file"))
            files.judge_secret(adapter.at("tsig", "key_file"))
            dns_rules.judge_key(adapter.at("tsig", "key_file"))


def _judge_tls(tls: Spot) -> None:
    files.judge_authorities(tls.at("ca_file"))
    files.judge_chain(tls.at("cert_file"), tls.at("key_file"))
