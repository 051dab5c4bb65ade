"""One answer, however broken and however it comes in pieces: one verdict, and no exception."""

import gzip

from hypothesis import given, settings
from hypothesis import strategies as st
from raw_server import OK, page, target

from lb_probe.core.model import Failed, Passed
from lb_probe.prober.answer import Reading

ANSWERS = [
    page(headers=["Date: Mon, 23 Nov 2026 00:00:00 GMT"]),
    page(length=False, version="1.0"),
    page(code="503 Service Unavailable"),
    page(headers=["Connection: upgrade", "Upgrade: h2c"]),
    page(gzip.compress(OK), headers=["Content-Encoding: gzip"]),
    page() + page(code="500 X"),
    b"HTTP/1.1 100 Continue\r\n\r\n"
    + page(
        b"15;x=1\r\n" + OK + b"\r\n0\r\nTrailer: x\r\n\r\n",
        headers=["Transfer-Encoding: chunked"],
        length=False,
    ),
]
PIECES = st.one_of(
    st.binary(max_size=3),
    st.sampled_from(
        b"\r\n|\n|\r|:| |\0|,|-1|+21|0\r\n\r\n|100|204|304|101|chunked|identity|HTTP/1.1 |"
        b"HTTP/1.1 200 OK\r\n|Content-Length: 21\r\n|Transfer-Encoding: chunked\r\n|"
        b"Connection: close\r\n|99999999999999999999|FFFFFFFFFFFFFFFFF".split(b"|")
    ),
)
PLACE = st.integers(0, 300)


def read(pieces):
    reading = Reading(target(80))
    for piece in pieces:
        if reading.verdict is None:
            reading.feed(piece)
    if reading.verdict is None:
        reading.end(is_cut=False)
    return reading.verdict.outcome, reading.code


@given(
    st.sampled_from(ANSWERS),
    st.lists(st.tuples(PLACE, st.integers(0, 12), PIECES), min_size=1, max_size=4),
    st.lists(PLACE, max_size=3),
)
@settings(max_examples=200, deadline=None)
def test_the_verdict_does_not_hang_on_how_the_answer_is_cut(answer, edits, cuts):
    """REQUIREMENTS 2.2, and what lies between its vectors."""
    for at, gone, new in edits:
        answer = answer[:at] + new + answer[at + gone :]
    ends = [*sorted(cuts), len(answer)]
    pieces = [answer[a:b] for a, b in zip([0, *ends], ends, strict=False) if a < b]

    outcome, code = read([answer] if answer else [])

    assert read(pieces) == (outcome, code)
    assert read([bytes([byte]) for byte in answer]) == (outcome, code)
    assert isinstance(outcome, Failed) or (outcome == Passed() and code == 200)


def known_of(answer):
    reading = Reading(target(80))
    reading.feed(answer)
    return reading.known


def test_a_known_answer_is_known_again_with_any_date_and_with_nothing_else_in_its_place():
    """What stands there must not end a header: then more than the time would differ."""
    monday, tuesday = "Mon, 23 Nov 2026 00:00:00 GMT", "Tue, 24 Nov 2026 23:59:59 GMT"

    def dated(text):
        return page(headers=[f"Date: {text}"])

    known, undated = known_of(dated(monday)), known_of(page())
    _, date, after = dated(monday).partition(monday.encode())
    assert not known.fits(b"")  # closed without an answer
    assert not undated.fits(b"")
    assert not known.fits(after)
    assert not known.fits(date + after)
    for text in (monday, tuesday, tuesday, monday):
        assert known.fits(dated(text))
        assert not undated.fits(dated(text))
    for text in (
        "Mon\r\n\r\n23 Nov 2026 00:00:00 GM",
        "Mon, 23 Nov 2026 00:00:00\r\nX:",
        monday[1:],
        monday + " ",
        "",
    ):
        assert not known.fits(dated(text)), text
    assert not known.fits(dated(monday)[:-1])
    assert not known.fits(dated(monday) + b" ")
    assert undated.fits(page())
    assert not undated.fits(page(b"X" * len(OK)))
