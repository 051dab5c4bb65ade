"""What a role may do, to an operator of the API and at an agent's socket."""

from enum import IntEnum


class Rank(IntEnum):
    """What a role may do; a higher one may do all that a lower one may."""

    NONE = 0  # somebody who was recognised and has no role
    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3

    @property
    def word(self) -> str:
        """Its name in probes.yaml, in answers and on record."""
        return self.name.lower()


def rank_of(word: str) -> Rank:
    """Return the rank of a role.

    >>> rank_of("operator")
    <Rank.OPERATOR: 2>

    Raises:
        KeyError: No role has this name; "none" is the lack of one.
    """
    return {rank.word: rank for rank in Rank if rank is not Rank.NONE}[word]
