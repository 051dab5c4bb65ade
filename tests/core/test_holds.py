"""Whether a node has the traffic, as its agent is told."""

import pytest

from lb_probe.core.holds import Holds, holds, proof
from lb_probe.core.model import Saved, Seen
from lb_probe.core.peer_report import signature


def sees(node):
    return Seen(node=node, chosen=(node,))


BOTH = Seen(node=None, chosen=("a", "b"))


@pytest.mark.parametrize(
    ("assigned", "seen", "word"),
    [
        ("b", (), Holds.YES),  # decided only: nothing else is known of it
        ("b", (sees("b"),), Holds.YES),
        ("b", (sees("b"), sees("a"), None), Holds.YES),  # one load balancer sends here already
        ("b", (sees("a"),), Holds.SOON),
        ("b", (None,), Holds.SOON),
        ("b", (BOTH,), Holds.SOON),
        ("a", (BOTH,), Holds.SOON),
        ("a", (sees("a"), sees("b")), Holds.SOON),  # decided away, and still seen here
        (None, (sees("b"),), Holds.SOON),
        ("a", (sees("a"),), Holds.NO),
        ("a", (), Holds.NO),
        ("a", (sees("a"), None), Holds.UNKNOWN),  # what that one does nobody knows
        (None, (sees("a"),), Holds.UNKNOWN),
    ],
)
def test_what_an_agent_is_told_follows_from_the_decision_and_what_is_seen(assigned, seen, word):
    assert holds("b", Saved(assigned=assigned), iter(seen)) is word


def test_a_proof_is_for_one_node_one_word_and_one_challenge():
    known = proof(b"hush", "c", "b", Holds.YES)
    others = {
        proof(b"other", "c", "b", Holds.YES),
        proof(b"hush", "d", "b", Holds.YES),
        proof(b"hush", "c", "a", Holds.YES),
        proof(b"hush", "c", "b", Holds.NO),
        # What an agent signs for anybody who asks with a nonce of his own: a JSON object.
        signature(b"hush", "lb-probe holds\nc\nb", b"{}"),
    }
    assert len({known} | others) == 6
