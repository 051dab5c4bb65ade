"""The prober's ear for agents: each is asked by itself, and what it said goes to its group."""

import asyncio
from collections.abc import Callable, Iterable

from lb_probe.app.secret_files import secret_of
from lb_probe.config import GroupConfig, NodeConfig
from lb_probe.core.agents import Heard
from lb_probe.core.holds import Holds
from lb_probe.ports import Clock
from lb_probe.prober.agent_report import Agent, ask

INTERVAL_S = 2.0
LOOK_S = 0.2  # between two looks for news
Hear = Callable[[str, str, Heard], None]
Where = Callable[[str, str], Holds]


def agents_of(groups: Iterable[GroupConfig]) -> list[Agent]:
    """Return every agent of the file that reports.

    Raises:
        Invalid: The secret of one cannot be read.
    """
    found = []
    for group in groups:
        for node in group.nodes:
            if node.agent is not None and node.agent.report is not None:
                found.append(_agent(group, node))
    return found


async def listen(agents: Iterable[Agent], hear: Hear, where: Where, clock: Clock) -> None:
    """Ask each agent every two seconds, and when it has to be told something; none waits.

    They are asked until this is cancelled.

    Args:
        where: Whether a node of a group has the traffic, for its agent.
    """
    import aiohttp

    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    async with (
        aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        ) as session,
        asyncio.TaskGroup() as tasks,
    ):

        async def until_due(agent: Agent, told: Holds, is_ready: bool) -> None:
            """Wait for the next question; it comes at once where there is news for the agent."""
            due = clock.monotonic() + INTERVAL_S
            while (left_s := due - clock.monotonic()) > 0:
                if is_ready and where(agent.group, agent.node) is not told:
                    return
                await clock.sleep(min(LOOK_S, left_s))

        async def follow(agent: Agent) -> None:
            last, challenge = None, ""
            while True:
                word = where(agent.group, agent.node) if challenge else Holds.UNKNOWN
                heard = await ask(agent, session, clock, word, challenge)
                challenge = heard.challenge
                if heard.report is None and last is not None:
                    # What it said stays, and grows old; why it says nothing now is shown.
                    heard = Heard(last.report, last.at, heard.fault)
                elif heard.report is not None:
                    last = heard
                hear(agent.group, agent.node, heard)
                await until_due(agent, word, bool(challenge))

        for agent in agents:
            tasks.create_task(follow(agent))


def _agent(group: GroupConfig, node: NodeConfig) -> Agent:
    assert node.agent is not None
    report = node.agent.report
    assert report is not None
    # Where it listens on all addresses it is found where its pages are.
    host = node.url.host if report.listen.is_any else report.listen.host
    secret = secret_of(report.secret_file) if report.secret_file else b""
    return Agent(group.name, node.name, host, report.listen.port, secret)
