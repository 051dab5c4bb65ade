"""What little of tmsh clients run through /mgmt/tm/util/bash: show, list, modify, save, sync.

A refusal is text in `commandResult` and status 200, as tmsh or bash print it.
"""

import re
import shlex
from typing import TYPE_CHECKING, Any

from emulator.errors import Refusal, refused
from emulator.names import Place, full_path, link_of, split_member

if TYPE_CHECKING:
    from emulator.unit import Unit

Json = dict[str, Any]
SAVED = "Saving running configuration...\n  /config/bigip.conf\n  /config/bigip_base.conf\n"
SERVICES = {443: "https", 80: "http"}


def command_of(line: str) -> str | None:
    """Return the command of tmsh's in `utilCmdArgs`; None: it runs something else.

    Raises:
        Refusal: Its quotes are not balanced: icrd looks at that much.
    """
    try:
        words = shlex.split(line)
        inner = shlex.split(words[1]) if len(words) > 1 and words[0] == "-c" else []
    except ValueError:
        raise refused(400, f"{line}: quotes are not balanced") from None
    if inner[:2] == ["tmsh", "-c"] and len(inner) == 3:
        return inner[2]
    if inner[:1] == ["tmsh"]:
        return " ".join(word for word in inner[1:] if word != "-q")
    return None


def not_tmsh(line: str) -> str:
    """Return what bash, or what stands before it, says of anything else."""
    if not line.startswith("-c "):
        return '/bin/bash: Required format is "-c <bash command and arguments>"\n'
    return f"/bin/bash: {line.split()[1]}: command not found\n"


class Shell:
    """tmsh of one unit."""

    def __init__(self, unit: "Unit") -> None:
        self._unit = unit
        self._known = (
            (r"save (?:/)?sys config(?: partitions all)?", self._save),
            (r"show (?:/)?sys version", self._version),
            (r"show (?:/)?cm (failover|sync)-status", self._status),
            (r"list (?:/)?ltm pool (\S+)", self._list),
            (r"modify (?:/)?ltm pool (\S+) members modify \{ (\S+) \{ (.*?) \} \}", self._modify),
            (r"run (?:/)?cm (config-sync .*)", self._sync),
        )

    def answer(self, method: str, body: Any) -> Json:
        """Answer /mgmt/tm/util/bash."""
        if method != "POST" or not isinstance(body, dict) or body.get("command") != "run":
            raise refused(400, "one or more properties must be specified")
        line = str(body.get("utilCmdArgs", ""))
        command = command_of(line)
        output = not_tmsh(line) if command is None else self.run(command)
        out: Json = {"kind": "tm:util:bash:runstate", **body}
        # Without output there is no such key.
        return out | ({"commandResult": output} if output else {})

    def run(self, command: str) -> str:
        """Run one command and return what it printed."""
        for part in command.split(";"):
            bare = " ".join(part.split())
            if bare.startswith("cd "):
                continue
            for pattern, run in self._known:
                if found := re.fullmatch(pattern, bare):
                    try:
                        return run(*found.groups())
                    except Refusal as refusal:
                        return refusal.message + "\n"
            return f'Syntax Error: unexpected argument "{bare.split()[-1]}"\n'
        return ""

    def _save(self) -> str:
        self._unit.save()
        return SAVED

    def _version(self) -> str:
        return (
            "\nSys::Version\nMain Package\n  Product     BIG-IP\n"
            f"  Version     {self._unit.version}\n  Build       0.0.2\n\n"
        )

    def _status(self, which: str) -> str:
        pair = self._unit.pair
        is_failover = which == "failover"
        answer = (pair.failover_answer if is_failover else pair.sync_answer)(self._unit)
        link = link_of(("cm", f"{which}-status", "0"), self._unit.version).partition("?")[0]
        entries = answer["entries"][link]["nestedStats"]["entries"]
        lines = [f"{word.title():8}{entries[word]['description']}" for word in ("color", "status")]
        return f"\nCM::{which.title()} Status\n" + "\n".join(lines) + "\n"

    def _list(self, pool: str) -> str:
        place = ("ltm", "pool", str(full_path(pool)))
        values = self._unit.running.get(place)
        lines = [f"ltm pool {full_path(pool).name} {{", "    members {"]
        for member in self._unit.running.children((*place, "members")):
            lines += self._member(place, member)
        lines.append("    }")
        if "monitor" in values:
            lines.append(f"    monitor {values['monitor'].removeprefix('/Common/')}")
        return "\n".join([*lines, "}"]) + "\n"

    def _member(self, pool: Place, member: Place) -> list[str]:
        node, port = split_member(full_path(member[-1]).name)
        shown = self._unit.member(pool[-1], member[-1])
        lines = [f"        {node}:{SERVICES.get(port, port)} {{"]
        lines += [f"            {key} {shown[key]}" for key in ("address", "session", "state")]
        return [*lines, "        }"]

    def _modify(self, pool: str, member: str, words: str) -> str:
        pairs = words.split()
        body = dict(zip(pairs[::2], pairs[1::2], strict=False))
        segments = [str(full_path(name)).replace("/", "~") for name in (pool, member)]
        path = f"ltm/pool/{segments[0]}/members/{segments[1]}".replace("%", "%25")
        self._unit.change("PATCH", path, body)
        return ""

    def _sync(self, words: str) -> str:
        self._unit.pair.command(self._unit, {"command": "run", "utilCmdArgs": words})
        return ""
