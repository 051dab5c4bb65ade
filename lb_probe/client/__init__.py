"""Talks to the operator API and to an agent's control socket, with the standard library only.

Every client verb pays for these imports, so nothing heavy is allowed here: yaml is loaded only
when a configuration file has to say where the API is, ssl only for an https address (what
`http.client` loads for itself aside).

`errors` says what can go wrong, `address` where the API is and who asks, `api` and `agent` speak.
"""

from lb_probe.client.address import (
    CONFIG_PLACES,
    Address,
    find_addresses,
    find_config,
    find_token,
    parse_url,
    read_yaml,
)
from lb_probe.client.agent import AGENT_ACT_TIMEOUT_S, ask_agent, follow_agent
from lb_probe.client.api import BREAK_GLASS, READ_TIMEOUT_S, Client, connect
from lb_probe.client.errors import (
    BadAnswer,
    ClientError,
    Conflict,
    Denied,
    Json,
    Lost,
    Refused,
    Unreachable,
    Unusable,
)

__all__ = [
    "AGENT_ACT_TIMEOUT_S",
    "BREAK_GLASS",
    "CONFIG_PLACES",
    "READ_TIMEOUT_S",
    "Address",
    "BadAnswer",
    "Client",
    "ClientError",
    "Conflict",
    "Denied",
    "Json",
    "Lost",
    "Refused",
    "Unreachable",
    "Unusable",
    "ask_agent",
    "connect",
    "find_addresses",
    "find_config",
    "find_token",
    "follow_agent",
    "parse_url",
    "read_yaml",
]
