"""What the records of one service say: which node, whose word, and what is in the way.

    epmm.example.com.            30 A   192.0.2.10
    _lb-probe.epmm.example.com.   0 TXT "lb-probe owner=host-1ab2c3d4.g42"

The TXT record is who wrote last and for which generation: what an update compares, beside the
addresses, before it changes anything. Pure: messages in, values out.

Source: RFC 2136, sections 2.4 and 3.4.2.2.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
import dns.rrset
import dns.update
from dns.rdatatype import AAAA, CNAME, TXT, A, RdataType

from lb_probe.adapters.dns_update.wire import Key
from lb_probe.ports import PublishError

MARK = "_lb-probe"
_SAYS = "lb-probe"
_OWNER = " owner="
_FAMILIES = (A, AAAA)


@dataclass(frozen=True, slots=True)
class Found:
    """What one server said.

    Attributes:
        rrsets: By type, of the record itself; a type without any is left out.
        mark: The TXT beside it, where it is ours.
    """

    rrsets: Mapping[RdataType, dns.rrset.RRset] = field(default_factory=dict)
    mark: dns.rrset.RRset | None = None

    @property
    def owner(self) -> str:
        """Who wrote last; empty where nobody signed."""
        return "" if self.mark is None else _text(self.mark).partition(_OWNER)[2]

    def values(self, kinds: Sequence[RdataType]) -> frozenset[str]:
        """Return what it points at, as text."""
        sets = (self.rrsets[kind] for kind in kinds if kind in self.rrsets)
        return frozenset(_shown(rdata) for rrset in sets for rdata in rrset)


class Service:
    """One name that moves: what is asked, what answers mean, and what an update holds.

    Args:
        values: For each node the addresses, or the one name of a CNAME.
        ttl: Seconds, of the records written.

    Attributes:
        kinds: Types of record that a publication writes.

    Raises:
        ValueError: A name outside the zone, or nodes with unlike kinds of address.
    """

    def __init__(
        self, zone: str, record: str, values: Mapping[str, Sequence[str]], ttl: int, *, alias: bool
    ) -> None:
        self.zone, self.name = dns.name.from_text(zone), dns.name.from_text(record)
        self.record, self._zone_text, self._alias = record, zone, alias
        self.ttl = ttl
        if not self.name.is_subdomain(self.zone):
            raise ValueError(f"record is {record}; use a name in zone {zone}")
        self._mark = dns.name.from_text(MARK, self.name)
        self._nodes = {node: self._rdatas(texts) for node, texts in values.items()}
        kinds = {tuple(sorted(sets)) for sets in self._nodes.values()}
        if len(kinds) != 1 or () in kinds:
            raise ValueError("nodes have unlike kinds of address; use IPv4, IPv6 or both for all")
        (self.kinds,) = kinds
        self.values = {
            node: frozenset(_shown(r) for rdatas in sets.values() for r in rdatas)
            for node, sets in self._nodes.items()
        }
        if len(set(self.values.values())) < min(2, len(self.values)):  # several may be of one site
            raise ValueError("all nodes have one address; give each its own, or each site")

    def _rdatas(self, texts: Sequence[str]) -> dict[RdataType, list[dns.rdata.Rdata]]:
        found: dict[RdataType, list[dns.rdata.Rdata]] = {}
        for text in texts:
            kind = CNAME if self._alias else AAAA if ":" in text else A
            said = f"{text.rstrip('.')}." if self._alias else text
            found.setdefault(kind, []).append(dns.rdata.from_text("IN", kind, said))
        return found

    # -------------------------------------------------------------- reading
    def queries(self) -> list[dns.message.QueryMessage]:
        """Return the questions whose answers `found` takes, in its order."""
        asked: list[tuple[dns.name.Name, RdataType]] = [(self.name, k) for k in self._asked]
        return [
            dns.message.make_query(name, kind, flags=0)
            for name, kind in [*asked, (self._mark, TXT)]
        ]

    @property
    def _asked(self) -> tuple[RdataType, ...]:
        return (CNAME, *_FAMILIES) if self._alias else _FAMILIES

    def found(self, answers: Sequence[dns.message.Message]) -> Found:
        """Say what the answers to `queries` mean.

        Raises:
            PublishError: The server is not the zone's, or refuses.
        """
        rrsets: dict[RdataType, dns.rrset.RRset] = {}
        for answer in answers[:-1]:
            for rrset in self._own(answer, self.name):
                rrsets[rrset.rdtype] = rrset
        marks = [r for r in self._own(answers[-1], self._mark) if r.rdtype == TXT]
        ours = [mark for mark in marks if _is_ours(mark)]
        return Found(rrsets, ours[0] if ours else None)

    def _own(self, answer: dns.message.Message, name: dns.name.Name) -> Iterator[dns.rrset.RRset]:
        rcode = answer.rcode()
        if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            raise PublishError(
                f"does not answer for zone {self._zone_text} ({dns.rcode.to_text(rcode)}): wanted"
                " a server that serves it, and lets us ask"
            )
        if not answer.flags & dns.flags.AA:
            raise PublishError(
                f"answers for {name.to_text(omit_final_dot=True)} without authority: wanted a"
                f" server of zone {self._zone_text}, no resolver, and no delegation in between"
            )
        return (rrset for rrset in answer.answer if rrset.name == name)

    # -------------------------------------------------------------- meaning
    def node(self, found: Found) -> str | None:
        """Return the one node that it points at, all of it and nothing else."""
        values = found.values(self.kinds)
        return next((node for node, own in self.values.items() if own == values), None)

    def chosen(self, found: Found) -> tuple[str, ...]:
        """Return the nodes that it points at, in part at least."""
        values = found.values(self.kinds)
        return tuple(node for node, own in self.values.items() if own & values)

    def alike(self, node: str | None) -> tuple[str, ...]:
        """Return the other nodes that the record cannot be told apart for: of the same site."""
        own = self.values.get(node or "")
        return tuple(name for name, each in self.values.items() if each == own and name != node)

    def obstacle(self, found: Found) -> str:
        """Say why an update would be ignored without a word; empty where it would not."""
        others = _FAMILIES if self._alias else (CNAME,)
        there = [kind for kind in others if kind in found.rrsets]
        if not there:
            return ""
        says = ", ".join(sorted(found.values(there)))
        wanted = "CNAME" if self._alias else "an address"
        other = "cname: false" if self._alias else "cname: true"
        kinds = " and ".join(dns.rdatatype.to_text(kind) for kind in there)
        return (
            f"{self.record} has {kinds} {says}, wanted {wanted}: beside it an update is ignored;"
            f" remove it by hand, or say `{other}`"
        )

    def oddities(self, found: Found) -> list[str]:
        """Say what an operator should know of it."""
        told = [self.obstacle(found)]
        values = found.values(self.kinds)
        known = frozenset[str]().union(*self.values.values())
        if not values and not told[0]:
            told.append(f"{self.record} does not exist yet")
        if strange := values - known:
            told.append(f"{self.record} is {', '.join(sorted(strange))}, which no node has")
        told += [*self._beside(found), *self._ttls(found)]
        return [text for text in told if text]

    def _beside(self, found: Found) -> Iterator[str]:
        if self._alias:
            return
        for kind in _FAMILIES:
            if kind in found.rrsets and kind not in self.kinds:
                says = ", ".join(sorted(found.values([kind])))
                yield (
                    f"{self.record} also has {dns.rdatatype.to_text(kind)} {says}, which no move"
                    " changes: remove it, or give every node one"
                )

    def _ttls(self, found: Found) -> Iterator[str]:
        ttls = {found.rrsets[kind].ttl for kind in self.kinds if kind in found.rrsets}
        if ttls - {self.ttl}:
            yield (
                f"the record's TTL is {max(ttls)}s, wanted {self.ttl}s: resolvers keep the old"
                " address that long; the next publication sets it"
            )

    # -------------------------------------------------------------- writing
    def update(self, node: str, before: Found, owner: str, key: Key) -> dns.update.UpdateMessage:
        """Return the signed update to a node, void unless all is still as it was `before`."""
        message = dns.update.UpdateMessage(self.zone, keyring=key.to_dns())
        for kind in self.kinds:
            _require(message, self.name, kind, before.rrsets.get(kind))
        if not self._alias:
            message.absent(self.name, CNAME)
        if before.mark is not None:  # what is there and not ours may be a wildcard's
            _require(message, self._mark, TXT, before.mark)
        for rdatas in self._nodes[node].values():
            message.replace(self.name, dns.rdataset.from_rdata_list(self.ttl, rdatas))
        message.replace(self._mark, 0, "TXT", f'"{_said(owner)}"')
        return message

    def commands(self, node: str, owner: str) -> list[str]:
        """Return the lines that make `nsupdate` do the same, without what is compared."""
        lines = [f"zone {self._zone_text}"]
        for kind, rdatas in self._nodes[node].items():
            word = dns.rdatatype.to_text(kind)
            lines.append(f"update delete {self.record}. {word}")
            lines += [f"update add {self.record}. {self.ttl} {word} {r.to_text()}" for r in rdatas]
        mark = self._mark.to_text()
        lines += [f"update delete {mark} TXT", f'update add {mark} 0 TXT "{_said(owner)}"', "send"]
        return lines


def _require(
    message: dns.update.UpdateMessage,
    name: dns.name.Name,
    kind: RdataType,
    rrset: dns.rrset.RRset | None,
) -> None:
    if rrset is None:
        message.absent(name, kind)
    else:
        message.present(name, *rrset)


def _said(owner: str) -> str:
    return _SAYS + _OWNER + owner if owner else _SAYS


def _text(rrset: dns.rrset.RRset) -> str:
    raw = b"".join(b"".join(rdata.strings) for rdata in rrset)
    return "".join(c if c.isprintable() else "?" for c in raw.decode("ascii", "replace"))[:200]


def _is_ours(mark: dns.rrset.RRset) -> bool:
    return len(mark) == 1 and _text(mark).partition(" ")[0] == _SAYS


def _shown(rdata: dns.rdata.Rdata) -> str:
    return rdata.to_text().rstrip(".").lower()
