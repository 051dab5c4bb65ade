"""Transactions: a queue of commands that nobody looks at until it is committed.

A commit applies all of them to a copy of the running configuration and takes the copy, or throws it
away. A transaction that is not committed in time is gone without a word.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from emulator.clock import DeviceClock
from emulator.configuration import Configuration
from emulator.errors import Refusal, refused
from emulator.names import Place, link_of

Json = dict[str, Any]
NO_COMMAND = "there is no command to commit in the transaction."


@dataclass
class Command:
    """One queued request."""

    method: str
    raw_path: str
    place: Place
    body: Any
    number: int
    order: int

    def item(self, transaction: int, version: str) -> Json:
        link = ("transaction", str(transaction), "commands", str(self.number))
        return {
            "method": self.method,
            "uri": f"https://localhost{self.raw_path}",
            "body": copy.deepcopy(self.body),
            "evalOrder": self.order,
            "commandId": self.number,
            "kind": "tm:transaction:commandsstate",
            "selfLink": link_of(link, version),
        }


@dataclass
class Transaction:
    """One transaction; `started` in seconds of the device."""

    number: int
    started: float
    timeout_s: float
    state: str = "STARTED"
    is_asynchronous: bool = False
    validate_only: bool = False
    failure: str = ""
    due: float = 0.0
    commands: list[Command] = field(default_factory=list)

    def item(self, version: str) -> Json:
        return {
            "transId": self.number,
            "state": self.state,
            "timeoutSeconds": int(self.timeout_s),
            "asyncExecution": self.is_asynchronous,
            "validateOnly": self.validate_only,
            "executionTimeout": 300,
            "executionTime": 0,
            "failureReason": self.failure,
            "kind": "tm:transactionstate",
            "selfLink": link_of(("transaction", str(self.number)), version),
        }


Apply = Callable[[Configuration, Command], None]
Take = Callable[[Configuration], None]


class Transactions:
    """The transactions of one unit.

    Attributes:
        timeout_s: After this long without a commit one is dropped.
        commit_s: How long a commit with `asyncExecution` works in the background.
        is_mixing_refused: A commit that makes members, or changes monitors, beside changes of state
            in the same pool fails, as it does on some versions.
    """

    def __init__(self, clock: DeviceClock, version: str, apply: Apply) -> None:
        self._clock = clock
        self._version = version
        self._apply = apply
        self._open: dict[int, Transaction] = {}
        self._last = 0
        self.timeout_s = 120.0
        self.commit_s = 0.05
        self.is_mixing_refused = True

    def start(self, body: Any) -> Json:
        given = body if isinstance(body, Mapping) else {}
        number = max(self._clock.micros(), self._last + 1)
        self._last = number
        is_asynchronous = bool(given.get("asyncExecution", False))
        self._open[number] = Transaction(
            number, self._clock.now(), self.timeout_s, is_asynchronous=is_asynchronous
        )
        return self._open[number].item(self._version)

    def find(self, number: str) -> Transaction:
        """Return an open transaction.

        Raises:
            Refusal: It never was, or it was dropped.
        """
        now = self._clock.now()
        for each in list(self._open.values()):
            if each.state == "STARTED" and now >= each.started + each.timeout_s:
                del self._open[each.number]
        found = self._open.get(int(number)) if number.isdecimal() else None
        if found is None:
            raise refused(404, f"Object not found - {number}", 1)
        return found

    def queue(self, number: str, method: str, raw_path: str, place: Place, body: Any) -> Json:
        """Put one request into the queue. Nobody looks at what it says."""
        transaction = self.find(number)
        if transaction.state != "STARTED":
            raise refused(400, f"Transaction {number} is not in STARTED state.", 1)
        count = len(transaction.commands) + 1
        command = Command(method, raw_path, place, copy.deepcopy(body), count, count)
        transaction.commands.append(command)
        return command.item(transaction.number, self._version)

    # ------------------------------------------------------------ commit
    def commit(self, number: str, body: Any, config: Configuration, take: Take) -> Json:
        """Answer PATCH of a transaction: carry it out, or only see whether it would go.

        Raises:
            Refusal: A command is refused; then nothing of all of it was done.
        """
        transaction = self.find(number)
        given = body if isinstance(body, Mapping) else {}
        if given.get("state") != "VALIDATING":
            raise refused(400, f'invalid property value "state":"{given.get("state")}"')
        if transaction.state not in ("STARTED", "FAILED"):
            raise refused(400, f"Transaction {number} is in {transaction.state} state.", 1)
        if not transaction.commands:
            raise refused(404, NO_COMMAND, 1)
        transaction.validate_only = bool(given.get("validateOnly", False))
        transaction.is_asynchronous = bool(given.get("asyncExecution", transaction.is_asynchronous))
        if transaction.is_asynchronous:
            transaction.state = "VALIDATING"
            transaction.due = self._clock.now() + self.commit_s
            return transaction.item(self._version)
        self._carry_out(transaction, config, take)
        if transaction.state == "FAILED":
            raise refused(400, transaction.failure, 2)
        shown = transaction.item(self._version)
        if transaction.validate_only:
            transaction.state = "STARTED"
        return shown

    def work(self, config: Configuration, take: Take) -> None:
        """Finish what was committed asynchronously and is due."""
        for transaction in self._open.values():
            if transaction.state == "VALIDATING" and self._clock.now() >= transaction.due:
                self._carry_out(transaction, config, take)

    def _carry_out(self, transaction: Transaction, config: Configuration, take: Take) -> None:
        trial = config.copy()
        try:
            if self.is_mixing_refused:
                demand_unmixed(transaction.commands)
            for command in sorted(transaction.commands, key=lambda each: each.order):
                self._apply(trial, command)
        except Refusal as refusal:
            transaction.state = "FAILED"
            transaction.failure = f"transaction failed:{refusal.message}"
            return
        transaction.state, transaction.failure = "COMPLETED", ""
        if not transaction.validate_only:
            take(trial)

    # ------------------------------------------------------------ look and roll back
    def answer(self, method: str, rest: Place, body: Any) -> Json:
        """Answer GET and DELETE below /mgmt/tm/transaction, and PATCH of a queued command."""
        if not rest:
            items = [each.item(self._version) for each in self._open.values()]
            link = link_of(("transaction",), self._version)
            empty: Json = {"kind": "tm:transactioncollectionstate", "selfLink": link}
            return empty | ({"items": items} if items else {})
        transaction = self.find(rest[0])
        if len(rest) == 1:
            if method == "DELETE":
                del self._open[transaction.number]
                return {}
            return transaction.item(self._version)
        return self._commands(method, transaction, rest[2:], body)

    def _commands(self, method: str, transaction: Transaction, rest: Place, body: Any) -> Json:
        number = transaction.number
        if not rest:
            return {
                "kind": "tm:transaction:commandscollectionstate",
                "selfLink": link_of(("transaction", str(number), "commands"), self._version),
                "items": [each.item(number, self._version) for each in transaction.commands],
            }
        if len(rest) > 1 or not rest[0].isdecimal():
            raise refused(400, f"Found invalid command id {'/'.join(rest)}/", 1)
        for command in transaction.commands:
            if command.number == int(rest[0]):
                if method == "DELETE":
                    transaction.commands.remove(command)
                elif method == "PATCH":
                    command.order = int(body["evalOrder"])
                return command.item(number, self._version)
        raise refused(404, f"Object not found - {rest[0]}", 1)


def demand_unmixed(commands: list[Command]) -> None:
    """Refuse new members, or other monitors, beside changes of state in one pool.

    Raises:
        Refusal: Both are there. Its number is a guess, its words are from reports.
    """
    changed: set[str] = set()
    made: set[str] = set()
    for command in commands:
        if command.place[:2] != ("ltm", "pool") or len(command.place) < 3:
            continue
        body = command.body if isinstance(command.body, Mapping) else {}
        if "members" in command.place and body.keys() & {"session", "state"}:
            (made if command.method == "POST" else changed).add(command.place[2])
        elif command.method == "POST" or body.keys() & {"monitor", "members"}:
            made.add(command.place[2])
    if changed & made:
        raise refused(400, "01070712:3: Invalid monitor rule instance identifier.", 3)
