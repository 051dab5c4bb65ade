"""From the file to what is asked: every page of a node, and how it is asked for."""

from collections.abc import Iterator

from lb_probe.config import GroupConfig, NodeConfig
from lb_probe.config.model import Tls
from lb_probe.core.model import Page
from lb_probe.core.status_page import Expected
from lb_probe.ports import Invalid
from lb_probe.prober.http_probe import Target, TlsSettings, make_ssl_context
from lb_probe.prober.tls import NodeContext


def targets_of(group: GroupConfig) -> Iterator[Target]:
    """Yield every page of every node of a group, as it is probed.

    Raises:
        Invalid: A certificate or a key cannot be read any more.
    """
    for node in group.nodes:
        context = None
        server_name = node.tls.server_name if node.tls else None
        if node.url.scheme in ("https", "tls"):
            name = server_name or node.url.host
            context = context_of(node.tls, name)
        # A node without pages is well when a connection to it can be made; a member has no mode.
        has_mode = node.url.scheme in ("http", "https") and not group.is_pool
        for page in Page if has_mode else (Page.STATUS,):
            path = node.status_path if page is Page.STATUS else node.hastatus_path
            yield Target(
                group=group.name,
                node=node.name,
                page=page,
                scheme=node.url.scheme,
                host=node.url.host,
                port=node.url.port,
                path=path,
                host_header=server_name or _host_header(node),
                server_name=server_name,
                ssl_context=context,
                timeout_s=group.probe.timeout_s,
                source=group.probe.source,
                connection=group.probe.connection,
                accept_suffix=node.primary_accept_suffix,
                expected=_expected(node),
            )


def _expected(node: NodeConfig) -> Expected | None:
    if node.expect_status is None and node.expect is None:
        return None
    return Expected(node.expect_status or 200, node.expect or "")


def _host_header(node: NodeConfig) -> str:
    host = f"[{node.url.host}]" if ":" in node.url.host else node.url.host
    is_default = node.url.port == (443 if node.url.scheme == "https" else 80)
    return host if is_default else f"{host}:{node.url.port}"


def context_of(tls: Tls | None, name: str) -> NodeContext:
    """Return what verifies a server that calls itself `name`.

    Raises:
        Invalid: A file of it cannot be read; `check` judged it, so it came to this since.
    """
    try:
        return make_ssl_context(tls_of(tls, name))
    except (OSError, ValueError) as error:
        paths = (tls.ca_file, tls.cert_file, tls.key_file) if tls is not None else ()
        named = ", ".join(str(path) for path in paths if path is not None)
        raise Invalid(
            f"tls of {name}: {error}; wanted PEM files in {named or 'the system'}"
        ) from None


def tls_of(tls: Tls | None, name: str) -> TlsSettings:
    """Return how a connection is encrypted, for a server that calls itself `name`."""
    if tls is None:
        return TlsSettings(server_name=name)
    return TlsSettings(
        ca_file=tls.ca_file,
        server_name=name,
        cert_file=tls.cert_file,
        key_file=tls.key_file,
        min_version=tls.min_version,
        fingerprint=tls.fingerprint,
        insecure=tls.insecure,
    )
