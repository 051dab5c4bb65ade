"""What time a server says it is, by the `Date` of an answer: coarse, and there without an agent.

Source: R11; RFC 9110, sections 5.6.7 and 6.6.1.
"""

from email.utils import parsedate_to_datetime

from lb_probe.core.clock_offset import Offset, by_date
from lb_probe.prober.http_probe import Report


def clock_of(report: Report, wall_less_monotonic: float) -> Offset | None:
    """Return how far a server's clock is ahead of ours; None where its answer does not say.

    Args:
        wall_less_monotonic: UTC seconds since 1970 less the seconds that stamped the probe.
    """
    said = {name.lower(): value for name, value in report.headers}
    if "age" in said:
        return None  # from somebody's memory: it was true once
    try:
        moment = parsedate_to_datetime(said["date"])
        date_wall = moment.timestamp()
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return None
    if moment.tzinfo is None:
        return None
    seen = report.observation
    asked_at, received_at = (at + wall_less_monotonic for at in (seen.started_at, seen.ended_at))
    return by_date(date_wall, asked_at, received_at)
