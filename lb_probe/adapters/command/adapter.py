"""A load balancer behind two programs: one publishes, one says what is in force.

    argv: [/usr/local/lib/lb-probe/netscaler, publish]
    read: [/usr/local/lib/lb-probe/netscaler, read]

Both are told in the environment and, as JSON, on standard input. `argv` ends with 0 once the load
balancer accepted it; `read` prints the name of the server that has the traffic. What counts is what
`read` says: a program that ends with 0 and did nothing is found out.

Source: DESIGN section 1; X2 (read back).
"""

import asyncio
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from lb_probe.core.model import Seen
from lb_probe.ports import PublishError, Unreachable
from lb_probe.program import MAX_OUTPUT_BYTES, Ended, Program

TIMEOUT_S = 5.0
POLL_S = 5.0
EXIT_UNAVAILABLE = 69  # EX_UNAVAILABLE of sysexits.h: it was not reached, and nothing was changed
NOBODY = "none"  # what `read` prints where no server has the traffic
_SHOWN = 200
_KINDS: Mapping[str, tuple[type, ...]] = {
    "servers": (list,),
    "usable": (bool, type(None)),
    "owner": (str,),
    "instance": (str,),
    "version": (str,),
    "detail": (str,),
}


class Command:
    """Two programs that stand for one load balancer of one group.

    Args:
        argv: Publishes; program first, no shell.
        read: Says what is in force, and changes nothing.
        nodes: For each node the word that the programs know it by.
        timeout_s: For each run.
        poll_s: Seconds between two readings while all is well.

    Attributes:
        name: The adapter's name in probes.yaml.
        type: Its kind in probes.yaml.
        owner: Who publishes; given to the program, which may keep it and let `read` say it.

    Raises:
        ValueError: No program, no node, one word for two nodes, or the word `none`.
    """

    type = "command"

    def __init__(
        self,
        name: str,
        group: str,
        argv: Sequence[str],
        read: Sequence[str],
        nodes: Mapping[str, str],
        *,
        timeout_s: float = TIMEOUT_S,
        poll_s: float = POLL_S,
    ) -> None:
        if not argv or not read:
            raise ValueError("argv or read is empty; name a program")
        words = set(nodes.values())
        if not nodes or len(words) < len(nodes) or NOBODY in words:
            raise ValueError(
                f"nodes are {dict(nodes)}; give each its own word, at least one, and not {NOBODY}"
            )
        self.name = name
        self.owner = ""
        self.poll_s = poll_s
        self._group = group
        self._nodes = dict(nodes)
        self._timeout_s = timeout_s
        self._publish, self._read = Program(argv, timeout_s), Program(read, timeout_s)
        self._writing = asyncio.Lock()

    # -------------------------------------------------------------- Publisher
    async def publish(self, node: str) -> None:
        """Run `argv` for this node; return when it ended with 0.

        Raises:
            Unreachable: It ended with 69: the load balancer was not reached.
            PublishError: It cannot be started, ended otherwise, or did not end in time.
        """
        self._check(node)
        async with self._writing:
            ended = await self._run(self._publish, self._wanted(node))
        if ended.status is None:
            raise PublishError(
                f"{self.name}: `argv` did not end within {self._timeout_s:g}s and was killed;"
                f" whether it moved anything is read next{_said(ended)}"
            )
        self._judge("argv", ended)

    async def read_back(self) -> Seen:
        """Run `read` and say what it printed.

        Raises:
            Unreachable: It did not end in time, or ended with 69.
            PublishError: It cannot be started, failed, or printed what cannot be understood.
        """
        ended = await self._run(self._read, {"action": "read"})
        if ended.status is None:
            raise Unreachable(
                f"{self.name}: `read` did not end within {self._timeout_s:g}s and was killed"
                f"{_said(ended)}"
            )
        self._judge("read", ended)
        if ended.is_cut:
            raise self._nonsense(f"more than {MAX_OUTPUT_BYTES} bytes")
        try:
            text = ended.out.decode().strip()
        except UnicodeDecodeError:
            raise self._nonsense("bytes that are no UTF-8") from None
        if not text:  # more likely a program that went wrong than one that closed the service
            raise self._nonsense("nothing")
        return self._seen(self._parsed(text) if text[:1] == "{" else {"servers": text.split("\n")})

    def commands(self, node: str) -> list[str]:
        """Return the line that would do what `publish(node)` does, standard input aside.

        Raises:
            PublishError: No word is known for it.
        """
        self._check(node)
        told = _variables(self._message(self._wanted(node)))
        words = [f"{name}={shlex.quote(value)}" for name, value in told.items()]
        return [" ".join([*words, shlex.join(self._publish.argv)])]

    def _check(self, node: str) -> None:
        if node not in self._nodes:
            known = ", ".join(self._nodes)
            raise PublishError(f"{self.name}: no server is known for {node}; wanted one of {known}")

    # -------------------------------------------------------------- one run
    def _wanted(self, node: str) -> dict[str, object]:
        number = self.owner.rpartition(".g")[2]
        return {
            "action": "publish",
            "node": node,
            "server": self._nodes[node],
            "generation": int(number) if number.isdecimal() else None,
            "owner": self.owner,
        }

    def _message(self, more: Mapping[str, object]) -> dict[str, object]:
        return {"version": 1, "group": self._group, "adapter": self.name, **more}

    async def _run(self, program: Program, more: Mapping[str, object]) -> Ended:
        message = self._message(more)
        given = json.dumps({**message, "nodes": self._nodes}).encode() + b"\n"
        # Our own settings may hold a token; the program has no use for them.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LB_PROBE_")}
        try:
            return await program.run(environment | _variables(message), given)
        except OSError as error:
            which = "read" if program is self._read else "argv"
            told = error.strerror or error
            raise PublishError(
                f"{self.name}: `{which}` cannot be run: {told}; wanted {program.argv[0]} as a"
                " program that this user may run"
            ) from error

    def _judge(self, which: str, ended: Ended) -> None:
        if ended.status == 0:
            return
        if ended.status == EXIT_UNAVAILABLE:
            raise Unreachable(
                f"{self.name}: `{which}` did not reach it (exit status 69){_said(ended)}"
            )
        assert ended.status is not None
        how = f"exit status {ended.status}" if ended.status > 0 else f"signal {-ended.status}"
        raise PublishError(f"{self.name}: `{which}` ended with {how}; wanted 0{_said(ended)}")

    # -------------------------------------------------------------- what `read` printed
    def _parsed(self, text: str) -> dict[str, Any]:
        try:
            said = json.loads(text)
        except (ValueError, RecursionError):
            raise self._nonsense(f"no JSON: '{_plain(text)}'") from None
        for key, value in said.items():
            if key not in _KINDS:
                raise self._nonsense(f"a key '{_plain(key)}', which is none of {', '.join(_KINDS)}")
            if not isinstance(value, _KINDS[key]):
                raise self._nonsense(f"{key} {_plain(json.dumps(value))}")
        if not all(isinstance(name, str) for name in said.get("servers", [0])):
            raise self._nonsense('no "servers" that is a list of names')
        return dict(said)

    def _seen(self, said: Mapping[str, Any]) -> Seen:
        names = [n for line in said["servers"] if (n := line.strip()) not in ("", NOBODY)]
        chosen = tuple(node for node, name in self._nodes.items() if name in names)
        strange = [f"'{_plain(name)}'" for name in names if name not in self._nodes.values()]
        told = [f"`read` says {', '.join(strange)}, which no node has"] if strange else []
        told += [_plain(said["detail"])] if said.get("detail") else []
        return Seen(
            node=chosen[0] if len(chosen) == 1 and not strange else None,
            chosen=chosen,
            usable=said.get("usable"),
            instance=_plain(said.get("instance", "")),
            detail="; ".join(told),
            owner=_plain(said.get("owner", "")),
            version=_plain(said.get("version", "")),
        )

    def _nonsense(self, found: str) -> PublishError:
        return PublishError(
            f"{self.name}: `read` printed {found}; wanted the name of the server that has the"
            f' traffic, {NOBODY} where none has, or {{"servers": ["NAME"]}}'
        )


def _variables(message: Mapping[str, object]) -> dict[str, str]:
    """Return what a run is told, as its environment.

    LB_PROBE_ACTION, LB_PROBE_GROUP, LB_PROBE_ADAPTER; to publish also LB_PROBE_NODE,
    LB_PROBE_SERVER, LB_PROBE_GENERATION and LB_PROBE_OWNER.
    """
    told = {k: v for k, v in message.items() if k != "version"}
    return {f"LB_PROBE_{k.upper()}": "" if v is None else str(v) for k, v in told.items()}


def _said(ended: Ended) -> str:
    """Return its last line, of standard error first, as the end of a message."""
    for raw in (ended.err, ended.out):
        if lines := raw.decode("utf-8", "replace").split("\n"):
            last = next((line for line in reversed(lines) if line.strip()), "")
            if last:
                return f"; it says: '{_plain(last.strip())}'"
    return ""


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text[:_SHOWN])
