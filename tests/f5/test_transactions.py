"""Transactions: nothing is looked at before the commit, and then all of it or nothing is done."""

from typing import Any

import pytest
from emulator import Emulator
from rest_client import ENABLED, NEW, OFFLINE, OLD, POOL, Answer, Rest

OLD_IS_ACTIVE = [("up", "monitor-enabled"), ("user-down", "user-disabled")]


async def start(rest: Rest, **how: Any) -> int:
    answer = await rest.ask("POST", "transaction", how)
    assert (answer.status, answer.body["state"]) == (200, "STARTED")
    assert answer.body["timeoutSeconds"] == 120
    number: int = answer.body["transId"]
    return number


async def commit(rest: Rest, number: int, **how: Any) -> Answer:
    return await rest.ask("PATCH", f"transaction/{number}", {"state": "VALIDATING", **how})


async def both(rest: Rest) -> list[tuple[str, str]]:
    return [await rest.states(OLD), await rest.states(NEW)]


async def queue_flip(rest: Rest, number: int) -> None:
    for path, body in ((OLD, OFFLINE), (NEW, ENABLED)):
        answer = await rest.ask("PATCH", path, body, number)
        assert (answer.status, answer.body["body"]) == (200, body)


async def test_a_flip_is_queued_and_then_done_whole(rest: Rest) -> None:
    """Facts 4: a GET with the header is answered, not queued."""
    number = await start(rest)
    await queue_flip(rest, number)
    assert (await rest.ask("GET", OLD, None, number)).body["state"] == "up"
    commands = (await rest.get(f"transaction/{number}/commands"))["items"]
    assert [(c["commandId"], c["method"], c["evalOrder"]) for c in commands] == [
        (1, "PATCH", 1),
        (2, "PATCH", 2),
    ]
    assert await both(rest) == OLD_IS_ACTIVE
    done = await commit(rest, number)
    assert (done.status, done.body["state"]) == (200, "COMPLETED")
    assert await both(rest) == [("user-down", "user-disabled"), ("checking", "monitor-enabled")]


async def test_one_command_that_is_refused_undoes_all(rest: Rest) -> None:
    """Facts 4: the reason is told at the commit, and stays readable."""
    number = await start(rest)
    await queue_flip(rest, number)
    queued = await rest.ask("PATCH", f"{POOL}/members/~Common~9.9.9.9:1", ENABLED, number)
    assert queued.status == 200
    refused = await commit(rest, number)
    assert (refused.status, refused.body["apiError"]) == (400, 2)
    assert refused.message.startswith("transaction failed:01020036:3: The requested Pool Member (")
    found = await rest.get(f"transaction/{number}")
    assert (found["state"], found["failureReason"]) == ("FAILED", refused.message)
    assert await both(rest) == OLD_IS_ACTIVE


async def test_only_looking_keeps_the_queue(rest: Rest) -> None:
    number = await start(rest)
    await queue_flip(rest, number)
    assert (await commit(rest, number, validateOnly=True)).status == 200
    assert await both(rest) == OLD_IS_ACTIVE
    assert (await commit(rest, number)).body["state"] == "COMPLETED"
    assert (await both(rest))[0] == ("user-down", "user-disabled")


async def test_a_commit_in_the_background_is_asked_for(bigip: Emulator, rest: Rest) -> None:
    bigip.unit(0).transactions.commit_s = 30
    number = await start(rest, asyncExecution=True)
    await queue_flip(rest, number)
    assert (await commit(rest, number)).body["state"] == "VALIDATING"
    assert await both(rest) == OLD_IS_ACTIVE
    bigip.clock.advance(30)
    assert (await rest.get(f"transaction/{number}"))["state"] == "COMPLETED"
    assert (await both(rest))[0] == ("user-down", "user-disabled")


async def test_a_transaction_that_waits_too_long_is_gone(bigip: Emulator, rest: Rest) -> None:
    """Facts 4: silently; what comes after it is refused, not done by itself."""
    number = await start(rest)
    await queue_flip(rest, number)
    bigip.clock.advance(120)
    late = await rest.ask("PATCH", OLD, {"ratio": 7}, number)
    assert late.status == 404
    assert (await commit(rest, number)).status == 404
    assert await both(rest) == OLD_IS_ACTIVE
    assert (await rest.get(OLD))["ratio"] == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "with_header", "status", "words"),
    [
        ("PATCH", "transaction/{}", {"state": "VALIDATING"}, True, 400,
         "is not allowed to be added to transaction."),
        ("PATCH", "transaction/{}", {"state": "VALIDATING"}, False, 404,
         "there is no command to commit in the transaction."),
        ("PATCH", "transaction", {"state": "VALIDATING"}, False, 404,
         "Missing transaction ID for this call."),
        ("PATCH", "transaction/{}", {"state": "DONE"}, False, 400, "invalid property value"),
        ("GET", "transaction/{}/commands/3/members", None, False, 400,
         "Found invalid command id 3/members/"),
    ],
)  # fmt: skip
async def test_what_is_said_of_transactions_that_are_used_wrongly(
    rest: Rest, method: str, path: str, body: Any, with_header: bool, status: int, words: str
) -> None:
    """Facts 4, in the device's words."""
    number = await start(rest)
    answer = await rest.ask(method, path.format(number), body, number if with_header else None)
    assert answer.status == status
    assert words in answer.message


async def test_a_transaction_is_rolled_back_by_deleting_it(rest: Rest) -> None:
    number = await start(rest)
    await queue_flip(rest, number)
    assert (await rest.ask("DELETE", f"transaction/{number}")).status == 200
    assert (await commit(rest, number)).status == 404
    assert await both(rest) == OLD_IS_ACTIVE


async def test_commands_run_in_the_order_they_are_given(rest: Rest) -> None:
    number = await start(rest)
    await rest.ask("PATCH", OLD, {"ratio": 2}, number)
    await rest.ask("PATCH", OLD, {"ratio": 3}, number)
    await rest.patch(f"transaction/{number}/commands/1", {"evalOrder": 9})
    await commit(rest, number)
    assert (await rest.get(OLD))["ratio"] == 2


async def test_two_transactions_at_once_both_hold(rest: Rest) -> None:
    """The later commit wins; none sees the other's queue."""
    first, second = await start(rest), await start(rest)
    await queue_flip(rest, first)
    await rest.ask("PATCH", OLD, ENABLED, second)
    assert (await commit(rest, first)).status == 200
    assert (await commit(rest, second)).status == 200
    assert (await both(rest))[0] == ("checking", "monitor-enabled")


@pytest.mark.parametrize(
    "other",
    [("POST", f"{POOL}/members", {"name": "192.0.2.12:443"}), ("PATCH", POOL, {"monitor": "http"})],
    ids=["a-member", "a-monitor"],
)
@pytest.mark.parametrize("is_refused", [True, False])
async def test_states_are_not_mixed_with_members_or_monitors(
    bigip: Emulator, rest: Rest, other: tuple[str, str, Any], is_refused: bool
) -> None:
    """Facts 4: it fails on some versions, so a flip is alone in its transaction."""
    bigip.unit(0).transactions.is_mixing_refused = is_refused
    number = await start(rest)
    await queue_flip(rest, number)
    await rest.ask(*other, number)
    answer = await commit(rest, number)
    assert answer.status == (400 if is_refused else 200)
    assert (await both(rest) == OLD_IS_ACTIVE) is is_refused
