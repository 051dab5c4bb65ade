"""Rules of `notify` that span several values; part of the third pass."""

from collections.abc import Iterable
from importlib.util import find_spec

from lb_probe.config import files
from lb_probe.config.address import Address
from lb_probe.config.source import Spot, nearest, shown

MAIL_PACKAGE = "aiosmtplib"
RESERVED = "dead-man"


def judge(notify: Spot, groups: Iterable[Spot]) -> None:
    """Note every fault of who is told what."""
    names = [name for group in groups if (name := group.at("name").text)]
    channels = notify.items("channels")
    _judge_names(channels)
    for channel in channels:
        _judge_groups(channel, names)
        if channel.at("type").text == "mail":
            _judge_mail(channel)
        if channel.at("type").text == "webhook":
            _judge_place(channel)
    if isinstance(notify.at("dead_man").value, dict):
        _judge_place(notify.at("dead_man"))


def _judge_names(channels: list[Spot]) -> None:
    first: dict[str, Spot] = {}
    for name in (channel.at("name") for channel in channels):
        if name.text is None:
            continue
        if name.text == RESERVED:
            name.fault(shown(name.text), "another name: this is the sign of life's")
        if (before := first.setdefault(name.text, name)) is not name:
            name.fault(f"{shown(name.text)} again, first on line {before.line}", "a channel name")


def _judge_groups(channel: Spot, names: list[str]) -> None:
    for group in channel.items("groups"):
        if group.text is not None and group.text not in names:
            meant, use = nearest(group.text, names)
            group.fault(f"no such group{meant}", use)


def _judge_place(spot: Spot) -> None:
    given = [key for key in ("url", "url_file") if spot.at(key).value is not None]
    if not given:
        spot.fault("neither url nor url_file", "one of them")
    elif len(given) == 2:
        spot.at("url").fault("url beside url_file", "one of them", at_key=True)


def _judge_mail(channel: Spot) -> None:
    for one, other in (("username", "password_file"), ("password_file", "username")):
        if channel.at(one).value is not None and channel.at(other).value is None:
            channel.at(other).fault("nothing", f"it too, as {one} is given")
    server = channel.at("server").parsed(Address.parse)
    is_open = channel.at("security").text == "none"
    if is_open and channel.at("username").value is not None and server and not server.is_loopback:
        use = "starttls or tls: a password would be readable on the way"
        channel.at("security").fault('"none" with a username', use)


def judge_installed(notify: Spot) -> None:
    """Note a mail channel that this installation cannot serve."""
    for channel in notify.items("channels"):
        if channel.at("type").text == "mail" and find_spec(MAIL_PACKAGE) is None:
            found = f"mail, and no package {MAIL_PACKAGE} is installed"
            channel.at("type").fault(found, "pip install 'lb-probe[mail]'")


def judge_files(notify: Spot) -> None:
    """Note every file of a channel that this process cannot use."""
    secrets = ("password_file", "url_file", "secret_file", "token_file", "key_file")
    for spot in [*notify.items("channels"), notify.at("dead_man")]:
        for name in secrets:
            files.judge_text(spot.at(name))
        files.judge_authorities(spot.at("ca_file"))
