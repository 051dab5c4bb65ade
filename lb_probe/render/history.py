"""What happened: a row for each record of the history."""

from collections.abc import Sequence

from lb_probe.client import Json
from lb_probe.columns import table
from lb_probe.render.text import Look, joined, mapping, plain, way_of


def history_table(records: Sequence[Json], look: Look) -> list[str]:
    """Return one row for each record, in the order in which it all happened."""
    if not records:
        return ["nothing has happened yet"]
    rows = []
    for record in _in_order(records):
        details = mapping(record.get("details"))
        rows.append(
            (
                look.time(record.get("at")),
                plain(record.get("group"), none="(prober)"),
                plain(record.get("kind")),
                _what(record, details),
                plain(details.get("actor") or details.get("rule")),
                _told_why(details),
            )
        )
    return table(("AT", "GROUP", "KIND", "WHAT", "BY", "WHY"), rows, look.width)


def _in_order(records: Sequence[Json]) -> list[Json]:
    """Put records of one prober into its own order: some are saved a second after others."""
    runs: dict[object, int] = {}
    keyed = []
    key = (0, 0.0)
    for record in records:
        details = mapping(record.get("details"))
        run, up = details.get("run"), details.get("up")
        if isinstance(run, int) and isinstance(up, int | float):
            key = (runs.setdefault(run, len(runs)), float(up))
        keyed.append((key, record))
    return [record for _, record in sorted(keyed, key=lambda pair: pair[0])]


def _what(record: Json, details: Json) -> str:
    kind = record.get("kind")
    if kind == "observation":
        how = plain(details.get("phase") or details.get("mode"), none="")
        words = [details.get("node"), details.get("page"), details.get("result"), how]
        return " ".join(plain(word) for word in words if word)
    if kind == "condition":
        return f"{plain(details.get('from'), none='(start)')} -> {plain(details.get('to'))}"
    if "to" not in details:
        return "-"
    return way_of(details.get("from", details.get("to")), details.get("to"))


_WHY = ("reason", "how", "detail", "notes", "blocked", "evidence", "records")


def _told_why(details: Json) -> str:
    found = [(key, details[key]) for key in _WHY if details.get(key) not in (None, "", [], {})]
    words = [plain(v) if key in _WHY[:3] else f"{key}: {joined(v)}" for key, v in found]
    return "; ".join(words) or "-"
