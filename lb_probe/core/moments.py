"""Wall time as people read it."""

from datetime import UTC, datetime


def iso(wall: float) -> str:
    """Return UTC seconds since 1970 as ISO-8601.

    >>> iso(0.0)
    '1970-01-01T00:00:00Z'
    """
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
