"""An agent's report as a document: what is read back, and what is refused."""

import json

import pytest

from lb_probe.core.model import Mode
from lb_probe.core.peer_report import PeerReport, parse, signature

FULL = PeerReport(
    node="epmm-b",
    mode=Mode.STANDBY,
    state="standby",
    quarantine="",
    version="12.5.1",
    config_hash="ab" * 32,
    last_good_sync=(10.5, 11.0),
    data_suspect="",
    is_syncing=False,
    ha_enabled=True,
    heartbeat="ok",
    heartbeat_at=12.0,
)


def test_a_report_is_read_back_as_it_was():
    for report in (FULL, PeerReport(node="x")):
        assert parse(json.loads(json.dumps(report.document()))) == report


def test_what_a_later_release_adds_is_left_alone():
    assert parse(FULL.document() | {"colour": ["red"]}) == FULL


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"version_of_report": 2}, "found version_of_report 2; wanted 1"),
        ({"node": ""}, "found no node"),
        ({"node": None}, "found no node"),
        ({"node": 7}, "found node '7'; wanted a text"),
        ({"version": "x" * 1001}, "wanted a text"),
        ({"mode": "unknown"}, "found mode 'unknown'; wanted a mode"),
        ({"mode": ["primary"]}, "wanted a mode"),
        ({"state": "passive"}, "found state 'passive'; wanted a state"),
        ({"state": {}}, "wanted a state"),
        ({"ha_enabled": 1}, "found ha_enabled '1'; wanted a flag"),
        ({"heartbeat_at": True}, "wanted a moment"),
        ({"heartbeat_at": -1}, "wanted a moment"),
        ({"heartbeat_at": float("nan")}, "wanted a moment"),
        ({"heartbeat_at": 1e300}, "wanted a moment"),
        ({"heartbeat_at": "12"}, "wanted a moment"),
        ({"last_good_sync": [2, 1]}, "wanted a span"),
        ({"last_good_sync": [1]}, "wanted a span"),
        ({"last_good_sync": [1, "x"]}, "wanted a span"),
        ({"last_good_sync": 3}, "wanted a span"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_and_named(change, found):
    """A peer that lies has to keep to the form at least."""
    with pytest.raises(ValueError, match="wanted") as refusal:
        parse(FULL.document() | change)
    assert found in str(refusal.value)


def test_texts_are_safe_to_print():
    assert parse(FULL.document() | {"version": "\x1b[2J12\n"}).version == "?[2J12?"


@pytest.mark.parametrize("document", [None, [], "x", 3])
def test_what_is_no_object_is_refused(document):
    with pytest.raises(ValueError, match="found no JSON object"):
        parse(document)


def test_a_signature_is_of_this_question_this_answer_and_this_secret_alone():
    ours = signature(b"secret", "nonce", b"{}")
    # RFC 2104 over the nonce, a newline, and the body; reckoned with OpenSSL.
    assert ours == "10bd8d6d65a831b2508656d6329c93340c9de901da5a6df4c6a2b61ccbd66dc0"
    others = {
        signature(*given)
        for given in (
            (b"Secret", "nonce", b"{}"),
            (b"secret", "nonc", b"{}"),
            (b"secret", "nonce", b"{ }"),
        )
    }
    assert len(others | {ours}) == 4
