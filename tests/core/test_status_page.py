"""The rule of REQUIREMENTS 2.1 against its vectors, against nasty pages and against chance."""

import string
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lb_probe.core import status_page
from lb_probe.core.model import Failed, Mode, Page, Passed, Phase
from lb_probe.core.status_page import Answer, Expected, judge, judge_by, printable

OK = "MOBILEIRON-STATUS: OK"
STANDBY = "MOBILEIRON-STATUS: OK (Mode: Standby)"
PRIMARY = "MOBILEIRON-STATUS: OK (Mode: Primary)"
ERROR = "MOBILEIRON-STATUS: ERROR"


def outcome(page, text, *, code=200, accept_suffix=False, location=""):
    body = text if isinstance(text, bytes) else text.encode()
    return judge(page, Answer(code, body, location), accept_suffix=accept_suffix).outcome


def status(text, **more):
    return outcome(Page.STATUS, text, **more)


def hastatus(text, **more):
    return outcome(Page.HASTATUS, text, **more)


# ------------------------------------------------------------------ pages that say OK
@pytest.mark.parametrize(
    "page",
    [
        OK,
        f"<html><body>{OK}</body></html>",
        f"<!DOCTYPE html>\n<html>\n<head><title>Status</title></head>\n<body>{OK}\n</body></html>",
        f"<?xml version='1.0'?><html\n lang='en'><title>a <b> c</title><body>{OK}</body></html>",
        f"\ufeff{OK}\r\n",
        f"  \t{OK} \t \r\n\r\n",
        f"first line\r{OK}\rlast line",
        "MOBILEIRON-STATUS:OK",
        "<b>MOBILEIRON-STATUS:</b> <i>OK</i>",
        "MOBILEIRON-STATUS:&nbsp;OK&nbsp;",
        "MOBILEIRON-STATUS: O<b>K</b>",
        f"<h1>EPMM</h1>{OK}<p>more",
        f"<div>{OK}</div>more",
        f"<DIV class='a > b' id=x>{OK}</DIV >more",
        f"<h1>a<h2>b</h2>{OK}",
        f"one<br/>{OK}<br>two",
        f"one</br>{OK}</p>two",
        f"{OK}\n{OK}",
        f"<!-- a <b> comment -->{OK}<!---->",
        f"<script>if (1 < 2) x('<p>')</script>{OK}<style>p {{}}</style>",
        f"load < 5 and > 3\n{OK}\na<=b &amp; c",
        f"<name>{OK}</name>",
        f"<table><tr><td>{OK}</td></tr></table>",
    ],
)
def test_a_page_that_says_ok_passes(page):
    """R47: vectors 1, 2 and 15."""
    assert status(page) == Passed()


# ------------------------------------------------------------------ pages that do not
@pytest.mark.parametrize(
    "page",
    [
        "",
        " \r\n",
        ERROR,
        "MOBILEIRON-STATUS: OKAY",
        STANDBY,
        PRIMARY,
        "mobileiron-status: ok",
        "MOBILEIRON-STATUS: ok",
        "MOBILEIRON-STATUS:",
        "MOBILEIRON-STATUS : OK",
        f"expected {OK} got ERROR",
        f"it was {OK}",
        f"{OK}\n{ERROR}",
        f"{ERROR}\n{OK}",
        f"{OK}\n{OK} (Mode: Standby)",
        f"{OK}\nit was {OK}",
        f"{OK} {OK}",
        "OK",
        "MOBILEIRON-STATUS:\nOK",
        # White space that is not a space, a tab or a line end belongs to the value.
        *(f"{OK}{char}" for char in "\x00\x0b\x0c\x1c\x85\xa0\u200b\u2028\u3000\ufeff\ufffd"),
        *(f"{OK}{char}AY" for char in "\x00\x0b\x0c\x1c\x85\xa0\u200b\u2028\u3000\ufeff\ufffd"),
        b"MOBILEIRON-STATUS: OK\xff",
        b"MOBILEIRON-STATUS: OK\xed\xbf\xbf",  # our seam, as no valid UTF-8 may spell it
        OK.encode("utf-16"),
        f"{OK}&#32;AY",
        f"{OK}&lt;",
    ],
)
def test_a_page_that_says_something_else_fails(page):
    """R48: vectors 4 to 9 and 12."""
    result = status(page)
    assert isinstance(result, Failed)
    assert result.phase is Phase.BODY
    assert result.detail.startswith("found ")
    assert result.detail.endswith("; wanted 'OK'")


@pytest.mark.parametrize(
    "page",
    [
        # hidden, and nothing or something else is shown
        f"<!--\n{OK}\n-->",
        f"<!-- >\n{OK}\n-->{ERROR}",
        f"<!-->\n{OK}\n-->",
        f"<!--->\n{OK}\n<!-- -->",
        f"<!-- --!>AY\n{OK}\n-->",
        f"<!--\n{OK}",
        f"{OK}<!-- --!>AY<!-- -->",
        f"{OK}<!-->AY<!-- -->",
        f"{OK}<!--->AY<!-- -->",
        f"<script>\n{OK}\n</script>",
        f"<script>\n{OK}\n",
        f"<script><!--<script></script>\n{OK}\n--></script>",
        f"<style>\n{OK}\n</style>",
        f"<title>\n{OK}\n</title>",
        f"<TITLE>{OK}</TITLE>",
        f"<title></title x\n{OK}\n",
        f"<template>\n{OK}\n</template>",
        f"<textarea>\n{OK}\n</textarea>",
        f"<noscript>\n{OK}\n</noscript>",
        f"<xmp><br>{OK}<br></xmp>",
        f"<s>{OK}</s>",
        f"<div hidden>{OK}</div>",
        f"<div style='display: none'>{OK}</div>",
        f"<div style='VISIBILITY:hidden'>{OK}</div>",
        f'<a title="\n{OK}\n">ERROR</a>',
        f"<a title='\n{OK}\n'>ERROR</a>",
        f'<a title=">\n{OK}\n',
        f'<a b"c>\n{OK}\n<a d">',
        f'<a x="1"y="\n{OK}\n">',
        f"<a\n{OK}\n>",
        f"<![CDATA[\n{OK}\n]]>",
        f"</ \n{OK}\n>",
        # shown as OKAY, or as another line
        f"{OK}<b>AY</b>",
        f"{OK}<b\n>AY</b>",
        f"{OK}<foo>AY",
        f"{OK}<!-- -->AY",
        f"{OK}<!-- \n -->AY",
        f"{OK}<?x>AY",
        f"{OK}<script>\n</script>AY",
        f"{OK}<td>(Mode: Standby)",
        f"{OK}<table>AY</table>",
        f"{OK}</div>AY",
        f"<div></div>{OK}</div>AY",
        f"<div><table><td>{OK}</div>AY",
        f"<h1><h2></h2>{OK}</h1>AY",
        f"<li>a<li>{OK}</li>AY",
        f"<div><center></div>{OK}</center>AY",
        f'{OK}<a b"c>AY<a d">',
        f"{OK}</body>AY",
        f"{OK}<Z",
        f"{OK}<",
        f"{OK}<</body>",
        f"it was <b\n>{OK}</b>",
        f"it was <!-- \n -->{OK}",
        f"{OK}&nb<b></b>sp;AY",
        f"{OK}&nb<b></b>sp;",
        # lines and tokens that only our reading would put together
        "MOBILEIRON-STATUS: O<br>K",
        "MOBILEIRON-STATUS: O\nK",
        "MOBILEIRON-STATUS: O<b\n>K</b>",
        "MOBILEIRON-STATUS: O<!-- \n -->K",
        "MOBILEIRON<b>-STATUS: OK</b>",
        "MOBILEIRON&#45;STATUS: OK",
        f"{OK}\n&#77;OBILEIRON-STATUS: ERROR",
        f"{OK}\nMOBILEIRON-<b>STATUS</b>: ERROR",
    ],
)
@pytest.mark.parametrize("accept_suffix", [False, True])
def test_markup_never_makes_a_page_say_ok(page, accept_suffix):
    assert isinstance(status(page, accept_suffix=accept_suffix), Failed)
    assert isinstance(status(f"<html><body>{page}</body></html>"), Failed)
    assert not isinstance(hastatus(page.replace("OK", "OK (Mode: Standby)", 1)), Passed)


def test_details_say_what_was_found_and_wanted():
    assert status("").detail == "found an empty page; wanted 'OK'"
    assert status("hello").detail.startswith("found no line that starts with MOBILEIRON-STATUS:")
    assert "conflicting values 'ERROR', 'OK'" in status(f"{OK}\n{ERROR}").detail
    assert "elsewhere than at the start" in status(f"is {OK}").detail
    assert "no </script>" in status("<script>").detail
    assert "no --> after '<!-- x'" in status("<!-- x").detail
    assert status(f"{OK}\x1b[31m").detail == "found 'OK\ufffd[31m'; wanted 'OK'"


# ------------------------------------------------------------------ codes
@pytest.mark.parametrize("code", [100, 201, 204, 400, 401, 403, 404, 500, 503, 0, 999])
def test_any_code_but_200_fails_whatever_the_text_says(code):
    """Vectors 10 and 13."""
    result = status(OK, code=code)
    assert result.phase is Phase.STATUS
    assert result.detail.startswith(str(code))
    assert hastatus(STANDBY, code=code).phase is Phase.STATUS


@pytest.mark.parametrize("code", [300, 301, 302, 304, 307, 308, 399])
def test_a_redirect_fails_and_says_where_it_points(code):
    """Vector 11."""
    result = status(OK, code=code, location="/mifs/login\x07")
    assert result.phase is Phase.REDIRECT
    assert result.detail.startswith(str(code))
    assert "/mifs/login\ufffd" in result.detail
    assert " to " not in status(OK, code=code).detail


def test_a_missing_hastatus_page_reminds_of_ha():
    """Vector 20, R82."""
    assert "is HA enabled" in hastatus("", code=404).detail
    assert "is HA enabled" not in status("", code=404).detail


# ------------------------------------------------------------------ suffix and connectors
@pytest.mark.parametrize(
    "rest", [" all well", "\tall well", "  x", " <b>fine</b>", " (since 10:42)"]
)
def test_a_suffix_passes_only_where_it_is_accepted(rest):
    assert isinstance(status(OK + rest), Failed)
    assert status(OK + rest, accept_suffix=True) == Passed()
    assert isinstance(hastatus(STANDBY + rest, accept_suffix=True), Failed)


@pytest.mark.parametrize(
    "rest",
    [
        "AY",
        "-ish",
        "(Mode: Standby)",
        " (Mode: Standby)",
        " x (Mode: Primary)",
        " (mode:",
        " Mode: X",
        " (Mo<b>de</b>: Standby)",
        " <!-- x -->(Mode: Standby)",
        " (Mo<!-- -->de: S)",
        " ( Mode x)",
    ],
)
def test_a_suffix_is_never_a_mode_or_a_longer_word(rest):
    assert isinstance(status(OK + rest, accept_suffix=True), Failed)


def test_unhealthy_connectors_are_counted_and_not_named():
    """Vector 3."""
    lines = [
        "theConnectorNameString=north;x=1;isHealthytrue",
        "theConnectorNameString=south;x=1;isHealthyfalse",
        "theConnectorNameString=<west>;x=1;isHealthytrue",
    ]
    assert status("\n".join([OK, *lines])) == Passed(detail="1 of 3 connectors unhealthy")
    assert status("<br>".join([OK, *lines])) == Passed(detail="1 of 3 connectors unhealthy")
    assert status("\n".join([OK, lines[0]])) == Passed()


@pytest.mark.parametrize(
    ("code", "body", "outcome"),
    [
        (200, b"all ready", Passed()),
        (200, b"all READY", Failed(Phase.BODY, "found no 'ready' in the body")),
        (200, b"", Failed(Phase.BODY, "found no 'ready' in the body")),
        (503, b"ready", Failed(Phase.STATUS, "503 Service Unavailable; wanted 200")),
        (302, b"ready", Failed(Phase.REDIRECT, "302 Found; wanted 200")),
        (200, b"\xff ready \x00" + OK.encode(), Passed()),
    ],
)
def test_a_page_of_ones_own_words_is_judged_by_code_and_text_alone(code, body, outcome):
    """R40: no assumption on the body of what is not EPMM."""
    assert judge_by(Expected(text="ready"), Answer(code, body)).outcome == outcome


def test_a_page_of_ones_own_words_may_be_wanted_with_another_code():
    assert judge_by(Expected(401), Answer(401, b"who are you?")).outcome == Passed()
    assert judge_by(Expected(302), Answer(302, b"")).outcome == Passed()


# ------------------------------------------------------------------ hastatus
def test_the_two_documented_modes_are_read():
    """R49: vectors 16 and 17."""
    assert hastatus(STANDBY) == Passed(Mode.STANDBY)
    assert hastatus(f"<p>{PRIMARY}</p>\n") == Passed(Mode.PRIMARY)
    assert hastatus("MOBILEIRON-STATUS: OK (Mode: <b>Standby</b>)") == Passed(Mode.STANDBY)


@pytest.mark.parametrize(
    "value",
    [
        "OK",
        "OK (Mode: Active)",
        "OK (Mode: )",
        "OK (Mode: standby)",
        "OK (Mode:Standby)",
        "OK  (Mode: Standby)",
        "OK (Mode: Standby )",
        "OK (Mode: Standby<!-- -->)",
    ],
)
def test_an_undocumented_mode_is_an_answer_that_makes_nobody_eligible(value):
    """R50: vector 18."""
    result = hastatus(f"MOBILEIRON-STATUS: {value}")
    assert isinstance(result, Passed)
    assert result.mode is Mode.UNKNOWN
    assert value.split("<")[0] in result.detail


@pytest.mark.parametrize(
    "value",
    [
        "ERROR (Mode: Standby)",
        "OKAY (Mode: Standby)",
        "OK Mode: Standby",
        "OK(Mode: Standby)",
        "OK (Mode: Standby) x",
        "OK (Mode: Standby",
        "OK (mode: Standby)",
        "OK\t(Mode: Standby)",
    ],
)
def test_anything_else_on_hastatus_fails(value):
    """Vector 19."""
    assert hastatus(f"MOBILEIRON-STATUS: {value}").phase is Phase.BODY


# ------------------------------------------------------------------ what is kept
def test_the_head_is_short_and_safe_to_print():
    verdict = judge(
        Page.STATUS, Answer(200, "\ufeffa\r\n\tb\x00\x1b\u202e€".encode() + b"\xff" * 999)
    )
    assert verdict.head.startswith("a   b\ufffd\ufffd\ufffd€\ufffd")
    assert len(verdict.head) == 200
    assert len(judge(Page.STATUS, Answer(200, "€".encode() * 300)).head) == 200


def test_the_digest_is_of_the_body_and_empty_without_one():
    assert judge(Page.STATUS, Answer(200, b"")).body_sha256 == ""
    assert judge(Page.STATUS, Answer(200, b"abc")).body_sha256.startswith("ba7816bf8f01cfea")


def test_small_bodies_are_judged_once_and_large_ones_are_not_kept():
    status_page._remembered.cache_clear()
    small, large = OK.encode(), OK.encode() + b"\n" * 4096
    for _ in range(3):
        for page in Page:
            for suffix in (False, True):
                assert isinstance(outcome(page, small, accept_suffix=suffix), Passed)
                assert isinstance(outcome(page, large, accept_suffix=suffix), Passed)
    assert status_page._remembered.cache_info().misses == 4


@pytest.mark.parametrize(
    "piece",
    [
        "<",
        "<a ",
        '<a "',
        "<!--",
        "<!-- -->",
        "<b>",
        "<div>",
        "</div>",
        "<title></title>",
        "&nbsp;",
        "<a b=",
        " x",
        '<a b="" ',
        "<script><!--</script>",
        "&",
        "MOBILEIRON-STATUS: OK\n",
    ],
)
def test_the_largest_page_is_judged_in_time_that_grows_with_its_length_only(piece):
    body = (piece * 65536)[:65536]
    started = time.process_time()
    for prefix in ("", "<a", "<title>"):
        status(prefix + body)
    assert time.process_time() - started < 3.0


# ------------------------------------------------------------------ by chance
FRAGMENTS = [
    "<!--", "-->", "--!>", "<!-->", "<b>", "</b>", "<br>", "<p>", "</p>", "<div>", "</div>", "<td>",
    "<table>", "<h1>", "</h1>", "<h2>", "<script>", "</script>", "<title>", "</title>", "<a b='",
    "'>", '<a b="', '">', "<", ">", "/", "\n", "\r", " ", "\t", "&nbsp;", "&", ";", "<b\n>", "x",
    "MOBILEIRON-STATUS:", "MOBILEIRON", "-STATUS:", " OK", "OK", "O", "K", "AY", " (Mode: Standby)",
    "ERROR", "\udfff".encode("utf-8", "surrogatepass").decode("latin-1"), "\x00", "\ufeff",
]  # fmt: skip
soup = st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join)
any_settings = settings(deadline=None, max_examples=400)


@any_settings
@given(body=st.binary(max_size=300), code=st.integers(0, 999), location=st.text(max_size=20))
def test_no_answer_raises_and_chance_never_says_ok(body, code, location):
    for page in Page:
        verdict = judge(page, Answer(code, body, location), accept_suffix=True)
        assert isinstance(verdict.outcome, Failed) or b"MOBILEIRON-STATUS:" in body
        assert verdict.head.isprintable()
        assert len(verdict.head) <= 200


@any_settings
@given(before=soup, after=soup, suffix=st.booleans())
@example(before=f"{OK}\n<!--", after="-->", suffix=False)
def test_a_page_that_spells_out_an_error_never_passes(before, after, suffix):
    for page in Page:
        for value in ("ERROR", "ERROR (Mode: Standby)"):
            text = f"{before}MOBILEIRON-STATUS: {value}\n{after}"
            assert isinstance(outcome(page, text, accept_suffix=suffix), Failed)


@any_settings
@given(text=soup)
def test_a_page_without_the_words_in_one_piece_never_passes(text):
    text = text.replace("MOBILEIRON-STATUS:", "MOBILEIRON-STATUS")
    for page in Page:
        assert isinstance(outcome(page, text, accept_suffix=True), Failed)


@any_settings
@given(text=soup)
def test_a_page_that_passes_shows_the_line_between_markup(text):
    if isinstance(status(text), Passed):
        shown = text.replace("&nbsp;", " ").replace("<b>", "").replace("</b>", "")
        after = shown.split("MOBILEIRON-STATUS:", 1)[1].lstrip(" \t")
        assert "MOBILEIRON-STATUS:" in shown
        assert after.startswith(("OK", "<"))
        assert not after.startswith(("OKAY", "OKx", "OKK"))


EDIT_CHARS = string.printable + "\x00\x1f\xa0\u200b\u3000\ufeffé€"


def one_character_edits(value):
    for at in range(len(value) + 1):
        for char in EDIT_CHARS:
            yield value[:at] + char + value[at:]
            if at < len(value):
                yield value[:at] + char + value[at + 1 :]
        if at < len(value):
            yield value[:at] + value[at + 1 :]


@pytest.mark.parametrize(
    "wrap", ["{}", "<html><body>{}</body></html>", "<p>{}</p>", "{}<br>x", "\r\n{}\r\n"]
)
@pytest.mark.parametrize("good", ["OK", "OK (Mode: Standby)", "OK (Mode: Primary)"])
def test_no_edit_of_one_character_is_taken_for_the_documented_value(good, wrap):
    """The value is what stands on the line up to a line end, without blanks at both ends."""
    for edited in one_character_edits(good):
        line = edited.replace("\r", "\n").split("\n")[0].strip(" \t")
        page = wrap.format(f"MOBILEIRON-STATUS: {edited}")
        assert (status(page) == Passed()) == (line == "OK"), page
        mode = getattr(hastatus(page), "mode", None)
        assert (mode is Mode.STANDBY) == (line == "OK (Mode: Standby)"), page
        assert (mode is Mode.PRIMARY) == (line == "OK (Mode: Primary)"), page


@any_settings
@given(st.text(max_size=300))
def test_printable_is_printable_and_no_longer_than_asked(text):
    shown = printable(text, 20)
    assert shown.isprintable()
    assert len(shown) == min(len(text), 20)
