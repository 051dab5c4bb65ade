"""Who is told what, and how: the part `notify` of probes.yaml; `docs/notifications.md`."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from lb_probe.config import values as v
from lb_probe.config.frozen import Frozen, key
from lb_probe.core.notice import USUAL

_TYPE = "mail, webhook, slack, teams, pagerduty or command"
_CA = "PEM file of the authority; the system's when left out"
_PROXY = "an HTTP proxy to go through"


class _Channel(Frozen):
    name: v.Name = key("a name that is the only one of all channels")
    classes: v.EventClasses = Field(
        default_factory=lambda: USUAL,
        validate_default=False,
        description="what it is told; all but sync-completed when left out",
    )
    at_least: Literal["info", "warning", "critical"] = key("nothing less grave is told", "info")
    groups: tuple[v.Name, ...] = key("only these groups; all when left out", ())
    stand_in_s: v.Duration | None = key("told only what no other channel took so long", None)


class MailChannel(_Channel):
    """E-mail over SMTP; needs the extra `mail`."""

    type: Literal["mail"] = key(_TYPE)
    server: v.HostPort = key('host:port, e.g. "mail.example.com:587"')
    security: Literal["starttls", "tls", "none"] = key(
        "starttls (usual, port 587), tls (port 465) or none", "starttls"
    )
    ca_file: v.FilePath | None = key(_CA, None)
    username: v.Text | None = key("login; goes with password_file", None)
    password_file: v.FilePath | None = key("a file with the password, not open to others", None)
    sender: v.MailAddress = key('an address, e.g. "lb-probe@example.com"', alias="from")
    to: v.MailAddresses = key('an address or a list of them, e.g. ["ops@example.com"]')
    timeout_s: v.Duration = key("one try as a whole", "30s")


class _Http(_Channel):
    ca_file: v.FilePath | None = key(_CA, None)
    proxy: v.CheckUrl | None = key(_PROXY, None)
    timeout_s: v.Duration = key("one try as a whole", "10s")


class WebhookChannel(_Http):
    """Our own JSON, signed as Standard Webhooks are."""

    type: Literal["webhook"] = key(_TYPE)
    url: v.CheckUrl | None = key("where to; this or url_file", None)
    url_file: v.FilePath | None = key("a file that holds the url, not open to others", None)
    secret_file: v.FilePath | None = key("a file with the secret that signs", None)
    token_file: v.FilePath | None = key("a file with a bearer token", None)


class ChatChannel(_Http):
    """A chat's incoming webhook; its url is the secret."""

    type: Literal["slack", "teams"] = key(_TYPE)
    url_file: v.FilePath = key("a file that holds the url, not open to others")


class PagerDutyChannel(_Http):
    """PagerDuty's Events API v2."""

    type: Literal["pagerduty"] = key(_TYPE)
    key_file: v.FilePath = key("a file that holds the integration key, not open to others")
    url: v.CheckUrl | None = key("another address of the API, as for the EU", None)


class CommandChannel(_Channel):
    """A program of the operator's own; JSON on standard input."""

    type: Literal["command"] = key(_TYPE)
    argv: v.Argv = key('a list, program first, e.g. ["/usr/local/lib/lb-probe/sms"]')
    timeout_s: v.Duration = key("one run as a whole", "10s")


Channel = Annotated[
    MailChannel | CommandChannel | ChatChannel | PagerDutyChannel | WebhookChannel,
    Field(discriminator="type"),
]
CHANNELS: dict[str, type[BaseModel]] = {
    "mail": MailChannel,
    "webhook": WebhookChannel,
    "slack": ChatChannel,
    "teams": ChatChannel,
    "pagerduty": PagerDutyChannel,
    "command": CommandChannel,
}


class DeadManSwitch(Frozen):
    """A url that is asked for while the prober works; who misses it calls people."""

    url: v.CheckUrl | None = key("what is asked for; this or url_file", None)
    url_file: v.FilePath | None = key("a file that holds the url, not open to others", None)
    interval_s: v.Duration = key("between two signs of life", "60s")
    timeout_s: v.Duration = key("one try as a whole", "10s")
    ca_file: v.FilePath | None = key(_CA, None)
    proxy: v.CheckUrl | None = key(_PROXY, None)


class Notify(Frozen):
    """Who is told what, and how."""

    channels: tuple[Channel, ...] = key("a list of ways to people", ())
    remind_s: v.Remind = key("while traffic is off the Primary say so this often", "12h")
    runbook: v.CheckUrl | None = key("where docs/runbook.md can be read, for links", None)
    dead_man: DeadManSwitch | None = key("a sign of life for a service elsewhere", None)
