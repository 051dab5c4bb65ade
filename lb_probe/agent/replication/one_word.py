"""Whether a peer says the same by its agent and on its page: one that contradicts itself lies."""

from lb_probe.agent.node import Guard, Node
from lb_probe.agent.peer import PeerError
from lb_probe.agent.peer_pages import PeerPages
from lb_probe.core.model import Gate


def one_word(node: Node, pages: PeerPages) -> Guard:
    """Return the guard that asks both; a page that does not say contradicts nothing."""

    async def peer_of_one_word() -> Gate:
        wanted = f"the same mode from the agent of {pages.name} and on its page"
        name = "peer-of-one-word"
        if node.peer is None:
            return Gate(name, False, "no peer is trusted yet", wanted)
        try:
            said = (await node.peer.report()).mode
        except PeerError as error:
            return Gate(name, False, str(error), wanted)
        shown = (await pages.look()).mode
        words = [mode.value if mode else "nothing" for mode in (said, shown)]
        found = f"its agent says {words[0]}, its page says {words[1]}"
        return Gate(name, shown is None or said is shown, found, wanted)

    return peer_of_one_word
