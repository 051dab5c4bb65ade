"""A HAProxy that polls the two pages itself, for people who run agents and no prober.

HAProxy gives one backend one check, and the two nodes need different ones: so each has a backend
of its own that only checks, and the servers that carry traffic `track` them.

Source: HA guide lines 216 and 218 (pages and words); HAProxy manual, "http-check expect", "track".
"""

from lb_probe.advice.haproxy_lines import (
    Choices,
    address_of,
    bind_lines,
    comment,
    fronts_of,
    joined,
    mode_of,
    own_port,
    tls_words,
)
from lb_probe.config.model import GroupConfig, NodeConfig
from lb_probe.core.model import Role

# The whole page must be the word: `string` is a search, and takes OKAY and OK (Mode: ...) too.
# Single quotes: in double ones HAProxy reads `$"` as a variable. [[:space:]] is for the newline at
# the end of the page, in the words of both kinds of regular expressions that HAProxy is built with.
SERVING = "'^MOBILEIRON-STATUS: OK[[:space:]]*$'"
# A page with more lines (a real EPMM lists its connectors): the first line must be the word.
SERVING_AND_MORE = "'^MOBILEIRON-STATUS: OK[[:blank:]]*($|[[:cntrl:]])'"
# A bracket of the text needs a backslash. Both modes: see the comment that is printed.
ABLE = r"'^MOBILEIRON-STATUS: OK \(Mode: (Standby|Primary)\)[[:space:]]*$'"


def pages_text(group: GroupConfig, choices: Choices | None = None) -> str:
    """Return a haproxy.cfg that polls the pages itself and keeps to the secondary once there.

    It is weaker than a prober: it forgets on a restart, moves without asking whether the
    secondary says Standby, and knows of no other load balancer.

    Raises:
        ValueError: No primary with one candidate, or an address that cannot be.
    """
    choices = choices or Choices()
    primary, secondary = _pair(group)
    checks = {
        primary.name: f"{group.name}-primary-page",
        secondary.name: f"{group.name}-secondary-page",
    }
    return joined(
        [
            comment(
                f"Group {group.name} without a prober: HAProxy polls the pages of both nodes.",
                "A restart or reload of HAProxy FORGETS a failover and goes back to the primary at"
                " once, in sync or not. `lb-probe haproxy config GROUP` prints what remembers.",
            ),
            _global(f"{checks[primary.name]}/{primary.name}"),
            *_service(group, (primary, secondary), checks, choices),
            _page(
                checks[primary.name],
                primary,
                primary.status_path,
                SERVING_AND_MORE if primary.primary_accept_suffix else SERVING,
                "fall 3 rise 99999999",
                "The whole page must be the word: `expect string` is a search and would also take"
                " OKAY and OK (Mode: ...). `rise 99999999`: once down it is up again by"
                " hand only. Right after a start of HAProxy one failed check is enough for that.",
            ),
            _page(
                checks[secondary.name],
                secondary,
                secondary.hastatus_path,
                ABLE,
                "fall 3 rise 2",
                "Both modes: a secondary that took over says Primary, and a check that wants"
                " Standby would take the only node out just then. In `rstring` a bracket of the"
                " text needs a backslash; without it nothing ever matches, and nobody notices.",
            ),
        ]
    )


def _pair(group: GroupConfig) -> tuple[NodeConfig, NodeConfig]:
    primaries = [node for node in group.nodes if node.role is Role.PRIMARY]
    candidates = [node for node in group.nodes if node.candidate]
    if len(primaries) != 1 or len(candidates) != 1:
        raise ValueError(f"group {group.name} is no pair; wanted one primary and one candidate")
    return primaries[0], candidates[0]


def _global(server: str) -> list[str]:
    return [
        "global",
        *comment(
            "Traffic back to the primary, by hand, once it is in sync again:",
            f"  echo 'set server {server} health up' | socat - /run/haproxy/admin.sock",
            indent=4,
        ),
        "    stats socket /run/haproxy/admin.sock mode 660 level admin",
        "    hard-stop-after 60s",
    ]


def _service(
    group: GroupConfig,
    pair: tuple[NodeConfig, NodeConfig],
    checks: dict[str, str],
    choices: Choices,
) -> list[list[str]]:
    (front,) = fronts_of(group, (group.name,), choices)
    primary, secondary = (
        f"    server {node.name} {address_of(node, own_port(node, front))}"
        f"{tls_words(node) if choices.certificate else ''} track {checks[node.name]}/{node.name}"
        " on-marked-down shutdown-sessions"
        for node in pair
    )
    mode = mode_of(group, choices)
    return [
        [
            f"frontend {front.name}",
            f"    mode {mode}",
            *bind_lines(front, choices),
            "    timeout client 5m",
            f"    default_backend {group.name}",
        ],
        [
            *comment(
                "The verdicts are those of the two backends below: one backend has one check."
            ),
            f"backend {group.name}",
            f"    mode {mode}",
            "    timeout connect 3s",
            "    timeout server 5m",
            primary,
            f"{secondary} backup",
        ],
    ]


def _page(name: str, node: NodeConfig, path: str, wanted: str, times: str, why: str) -> list[str]:
    url = node.url
    tls = tls_words(node) if url.scheme == "https" else ""
    host = node.tls.server_name if node.tls and node.tls.server_name else url.host
    host = f"[{host}]" if ":" in host else host
    return [
        *comment(why),
        f"backend {name}",
        "    mode http",
        "    timeout connect 1s",
        "    timeout server 1s",
        "    timeout check 1s",
        "    option httpchk",
        f"    http-check send meth GET uri {path} ver HTTP/1.1 hdr Host {host}",
        "    http-check expect status 200",
        f"    http-check expect rstring {wanted}",
        f"    server {node.name} {url.address}{tls} check inter 1s {times}",
    ]
