"""What the doctor looks for in haproxy.cfg; each function finds one kind of fault."""

import re
from collections.abc import Iterator

from lb_probe.advice.findings import Finding
from lb_probe.advice.haproxy_case import NONE, Case
from lb_probe.advice.haproxy_file import ConfigFile, Line, Section, value_after

# A map and its default in an expression: map(FILE), map_beg(FILE,DEFAULT).
_MAP = re.compile(r"\bmap(?:_[a-z]+)*\(([^,()]+)(?:,([^()]*))?\)")
_KEY = re.compile(r"\bstr\(([^()]*)\),map")
_MAXCONN = 20  # lb-probe keeps to 4; other tools and people ask too
# Each replaces the one before; there is no `no option httpchk`.
_CHECK_KINDS = frozenset(
    {
        *("httpchk", "tcp-check", "ssl-hello-chk", "smtpchk", "mysql-check", "pgsql-check"),
        *("redis-check", "ldap-check", "external-check", "spop-check"),
    }
)
_PASSIVE = ("observe", "on-error", "error-limit")


def find(case: Case) -> Iterator[Finding]:
    """Yield everything; nothing without a file, and of another HAProxy's file nothing but that."""
    if case.config is None:
        return
    running = [name for name in case.backends if case.running.backend(name)]
    known = {section.name for section in case.config.proxies("backend")}
    missing = [name for name in running if name not in known]
    if missing:
        yield _other_file(case, missing)
    if not missing or missing != running:
        for rule in RULES:
            yield from rule(case, case.config)


def _other_file(case: Case, missing: list[str]) -> Finding:
    names = " and ".join(missing)
    return Finding(
        "warning",
        "other-file",
        f"backend{'s' if len(missing) > 1 else ''} {names} {'run' if len(missing) > 1 else 'runs'}"
        " and stands in no file that was given",
        "it is not the file of this HAProxy, or not all of it, or changed since its last reload:"
        " what a start would do is not known.",
        f"lb-probe haproxy doctor {case.group.name} --adapter {case.adapter.name} --file FILE"
        "   # once for each -f of its command line",
    )


# ------------------------------------------------------------------ global
def sockets(case: Case, config: ConfigFile) -> Iterator[Finding]:
    """TLS words that HAProxy does not read."""
    for line in config.globals("stats", "socket"):
        if "ssl" in line.words[3:]:
            yield Finding(
                "error",
                "socket-ssl",
                f"{line.where}: `ssl` on a `stats socket` line",
                "HAProxy ignores it without a word: the port is plain text, without a password.",
                "stats socket /run/haproxy/admin.sock mode 660 level admin\n"
                "and a `listen` with TLS in front: docs/haproxy.md",
            )


def maxconn(case: Case, config: ConfigFile) -> Iterator[Finding]:
    """Places on the command socket."""
    lines = config.globals("stats", "maxconn")
    said = lines[-1].words[2] if lines and len(lines[-1].words) > 2 else "10"
    if said.isdigit() and int(said) < _MAXCONN:
        yield Finding(
            "warning",
            "stats-maxconn",
            f"{lines[-1].where}: `stats maxconn {said}`" if lines else "no `stats maxconn`",
            f"{said} connections for all sockets together{'' if lines else ' is the default'}; one"
            " more just hangs, and so does a failover.",
            "stats maxconn 50",
        )


def hard_stop(case: Case, config: ConfigFile) -> Iterator[Finding]:
    """An end for processes that leave."""
    if not config.globals("hard-stop-after"):
        yield Finding(
            "warning",
            "no-hard-stop",
            "no `hard-stop-after`",
            "a process that a reload leaves behind keeps its connections to the old node for as"
            " long as they last; nobody can move them.",
            "hard-stop-after 60s",
        )


def state_file(case: Case, config: ConfigFile) -> Iterator[Finding]:
    """An old state that is loaded at start."""
    for section in case.our_sections:
        for line in section.all("load-server-state-from-file"):
            if line.words[1:2] != ("none",):
                yield Finding(
                    "error",
                    "state-file",
                    f"{line.where}: `{line.text}` for backend {section.name}",
                    "a start restores who had the traffic when that file was written; lb-probe is"
                    " the memory.",
                    "load-server-state-from-file none",
                )


# ------------------------------------------------------------------ our backends
def sticking(case: Case, config: ConfigFile) -> Iterator[Finding]:
    """Stick-tables that choose a server."""
    for section in case.our_sections:
        tables = section.all("stick-table")
        for line in section.lines:
            if line.words[:1] != ("stick",):
                continue
            is_recipe = any(value_after(t.words, "size") == "1" for t in tables)
            yield Finding(
                "error",
                "stick",
                f"{line.where}: `{line.text}` in backend {section.name}",
                "the known recipe against failback does not hold: with `size 1 nopurge` the entry"
                " is never written anew, and traffic goes back."
                if is_recipe
                else "clients stay on the server they were on, whatever lb-probe says; a restart"
                " forgets it again.",
                f"remove `{line.text}` and its `stick-table`",
            )


def page_checks(case: Case, config: ConfigFile) -> Iterator[Finding]:
    """Checks of the health pages, even where they pass at the moment."""
    pages = {page for node in case.nodes for page in (node.status_path, node.hastatus_path)}
    for section in case.our_sections:
        kinds = [x for x in section.all("option") if x.words[1:2] and x.words[1] in _CHECK_KINDS]
        if not kinds or kinds[-1].words[1] != "httpchk":
            continue  # the last one counts, and `defaults` come first
        for line in [kinds[-1], *section.all("http-check", "send")]:
            if pages & set(line.words):
                yield Finding(
                    "error",
                    "health-page-check",
                    f"{line.where}: `{line.text}` for backend {section.name}",
                    "a standby's status page is not OK by design and its hastatus page changes the"
                    " word when it is promoted: HAProxy holds the node down just when traffic"
                    " comes to it.",
                    f"in backend {section.name}, after that line: option tcp-check",
                )


def persistence(case: Case, config: ConfigFile) -> Iterator[Finding]:
    """Clients that are sent to a server which may not serve."""
    for section in case.our_sections:
        for line in section.lines:
            is_forced = line.starts("option", "persist") or line.starts("force-persist")
            if is_forced or (line.starts("cookie") and not case.is_map):
                yield Finding(
                    "error" if is_forced else "info",
                    "persist" if is_forced else "cookie",
                    f"{line.where}: `{line.text}` in backend {section.name}",
                    "clients with a cookie go to a node that is down or in maintenance."
                    if is_forced
                    else "cookies outlive a move only if somebody drains a server by hand; lb-probe"
                    " uses maintenance, which they do not.",
                    f"remove `{line.text}`",
                )


def server_words(case: Case, config: ConfigFile) -> Iterator[Finding]:
    """Words of servers by which HAProxy forms a view of its own."""
    for section in case.our_sections:
        for line in section.lines:
            if line.words[0] not in {"server", "default-server"}:
                continue
            passive = [word for word in _PASSIVE if word in line.words]
            if passive:
                yield Finding(
                    "warning",
                    "passive-check",
                    f"{line.where}: `{' '.join(passive)}` in `{' '.join(line.words[:2])}`",
                    "errors of the application take the node down in HAProxy, and nobody may"
                    " replace it: clients get errors from HAProxy instead of the node.",
                    f"remove {' and '.join(f'`{word}`' for word in passive)}",
                )
            if line.words[0] == "default-server" and "backup" in line.words:
                yield Finding(
                    "error",
                    "default-backup",
                    f"{line.where}: `backup` for every server of backend {section.name}",
                    "HAProxy chooses among them by itself.",
                    "remove `backup` from this default-server",
                )


def backup_words(case: Case) -> Iterator[Finding]:
    """Servers that are `backup`, where no running process tells it."""
    for section in case.our_sections:
        for line in section.lines:
            if line.words[0] == "server" and "backup" in line.words:
                yield Finding(
                    "error",
                    "backup",
                    f"{line.where}: `{' '.join(line.words[:2])}` is a `backup` server",
                    "HAProxy chooses by itself, and goes back to the other once its check passes.",
                    f"remove `backup` from the line of server {line.words[1]}",
                )


def redispatch(case: Case, config: ConfigFile) -> Iterator[Finding]:
    """A second try at another server."""
    for section in case.our_sections if not case.is_map else ():
        for line in section.all("option", "redispatch"):
            yield Finding(
                "info",
                "redispatch",
                f"{line.where}: `option redispatch` for backend {section.name}",
                "harmless while one server is ready: it helps clients that wait for the old node at"
                " a move. With two ready it hides that.",
                "nothing to do",
            )


# ------------------------------------------------------------------ ways in
def ways_in(case: Case, config: ConfigFile) -> Iterator[Finding]:
    """Frontends of the map, and lines that go round it."""
    if not case.is_map:
        return
    for section in config.proxies("frontend"):
        if any(_maps(line, case) for line in section.lines):
            yield from _map_frontend(section, case, config)
        for line in section.lines:
            if (
                line.words[0] in {"use_backend", "default_backend"}
                and line.words[1:2]
                and (line.words[1] in case.backends)
            ):
                yield Finding(
                    "error",
                    "fixed-way",
                    f"{line.where}: `{line.text}` in {section.kind} {section.name}",
                    "this traffic goes to one node whatever the map says.",
                    _use_backend(case),
                )


def _map_frontend(section: Section, case: Case, config: ConfigFile) -> Iterator[Finding]:
    catches = section.all("default_backend")
    for line in section.lines:
        for default in _maps(line, case):
            if line.words[0] == "use-server":
                yield Finding(
                    "error",
                    "use-server",
                    f"{line.where}: `{line.text}`",
                    "it only prefers a server: when that one is down, HAProxy takes any other.",
                    _use_backend(case),
                )
            elif default != NONE:
                yield Finding(
                    "error" if default or catches else "warning",
                    "map-default",
                    f"{line.where}: the map has "
                    + (f"the default `{default}`" if default else "no default"),
                    f"a missing key sends everybody to {default}."
                    if default
                    else "a missing key leaves the name of the backend empty.",
                    _use_backend(case),
                )
    for line in catches:
        if line.words[1:2] and line.words[1] not in case.backends:
            yield _catching(line, case, config)


def _catching(line: Line, case: Case, config: ConfigFile) -> Finding:
    name = line.words[1]
    hosts = {node.url.host for node in case.nodes}
    servers = [s for p in config.proxies("backend") if p.name == name for s in p.all("server")]
    is_node = any(len(s.words) > 2 and s.words[2].rpartition(":")[0] in hosts for s in servers)
    return Finding(
        "error" if is_node else "info",
        "default-backend",
        f"{line.where}: `{line.text}` catches everybody whom the map sends nowhere",
        f"backend {name} leads to a node, chosen or not."
        if is_node
        else f"right if backend {name} is a page that says sorry, wrong if it leads to a node.",
        f"remove `{line.text}`" if is_node else "nothing to do",
    )


def keys(case: Case, config: ConfigFile) -> Iterator[Finding]:
    """Keys of ours that no line looks up."""
    texts = [" ".join(line.words) for s in config.proxies("frontend") for line in s.lines]
    uses = [text for text in texts if f"({case.adapter.map_file}" in text]
    asked = {key for text in uses for key in _KEY.findall(text)}
    if not case.is_map or not uses or not all(_KEY.search(text) for text in uses):
        return  # the key comes from the request: anything may be asked for
    for key in case.adapter.key:
        if key not in asked:
            yield Finding(
                "error",
                "key-unused",
                f"no line looks up the key {key}; looked up: {', '.join(sorted(asked))}",
                "lb-probe moves this key, and no client with it.",
                _use_backend(case, key),
            )


def own_choice(case: Case, config: ConfigFile) -> Iterator[Finding]:
    """Rules that count servers and choose."""
    for section in config.proxies("frontend", "backend"):
        for line in section.lines:
            if any(f"nbsrv({name})" in word for word in line.words for name in case.backends):
                yield Finding(
                    "error",
                    "nbsrv",
                    f"{line.where}: `{line.text}`",
                    "HAProxy chooses by the number of servers that are up, and goes back at once.",
                    f"remove `{line.text}`",
                )


def _maps(line: Line, case: Case) -> list[str]:
    """Return the default of each use of our map in a line; empty for none."""
    found = _MAP.findall(" ".join(line.words))
    return [default.strip() for file, default in found if file.strip() == case.adapter.map_file]


def _use_backend(case: Case, key: str = "") -> str:
    adapter = case.adapter
    return (
        f"use_backend {adapter.backend_prefix}%[str({key or adapter.key[0]}),"
        f"map({adapter.map_file},{NONE})]"
    )


RULES = (
    sockets,
    maxconn,
    hard_stop,
    state_file,
    sticking,
    page_checks,
    persistence,
    server_words,
    redispatch,
    ways_in,
    keys,
    own_choice,
)
