"""The audit log: on disk before it is acknowledged, and no line changed or taken out unseen."""

import asyncio
import json
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lb_probe.events.audit import START, Audit, AuditError, lines


def log(tmp_path, told=lambda *_: None):
    audit = Audit(tmp_path / "audit.jsonl", lambda: 1_767_225_600.0, told)
    audit.open()
    return audit


async def three(tmp_path):
    audit = log(tmp_path)
    for verb in ("hold", "failover", "resume"):
        await audit.write("act", verb=verb, actor="ops", reason="a <b> \u2028 ü")
    return audit


async def test_each_line_seals_the_one_before_and_is_for_its_owner_only(tmp_path):
    heard = []
    audit = log(tmp_path, lambda *told: heard.append(told))
    await audit.write("login", actor="ops", remote="127.0.0.1")
    await audit.write("act", actor="ops", verb="resume")
    first, second = lines(audit.path)
    assert (first["seq"], first["prev"], first["action"]) == (1, START, "login")
    assert (second["prev"], second["at"]) == (first["hash"], "2026-01-01T00:00:00Z")
    assert heard == [(1, "login", first["hash"]), (2, "act", second["hash"])]
    assert (audit.head.number, audit.head.digest) == (2, second["hash"])
    assert stat.S_IMODE(audit.path.stat().st_mode) == 0o600


async def test_a_log_goes_on_after_a_restart(tmp_path):
    await three(tmp_path)
    await log(tmp_path).write("act", verb="ack")
    assert [line["seq"] for line in lines(tmp_path / "audit.jsonl")] == [1, 2, 3, 4]


async def test_many_at_once_are_one_chain(tmp_path):
    audit = log(tmp_path)
    await asyncio.gather(*(audit.write("act", verb=str(number)) for number in range(50)))
    assert [line["seq"] for line in lines(audit.path)] == list(range(1, 51))


@pytest.mark.parametrize("cut", [1, 10, 60])
async def test_a_line_that_a_crash_cut_off_was_never_acknowledged(tmp_path, cut):
    path = (await three(tmp_path)).path
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with pytest.raises(AuditError, match="line 3"):
        list(lines(path))
    await log(tmp_path).write("act", verb="again")
    assert [line.get("verb") for line in lines(path)] == ["hold", "failover", "again"]


@settings(deadline=None, max_examples=60)
@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found(tmp_path_factory, place, bit):
    folder = tmp_path_factory.mktemp("audit")
    path = asyncio.run(three(folder)).path
    raw = bytearray(path.read_bytes())
    raw[place % len(raw)] ^= 1 << bit
    path.write_bytes(raw)
    with pytest.raises(AuditError):
        list(lines(path))


@pytest.mark.parametrize("gone", [0, 1])
async def test_a_line_that_was_taken_out_is_found(tmp_path, gone):
    path = (await three(tmp_path)).path
    kept = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(kept[:gone] + kept[gone + 1 :]))
    with pytest.raises(AuditError, match=f"line {gone + 1}: .* changed or taken out"):
        list(lines(path))


async def test_what_cannot_be_written_is_said_and_leaves_the_chain_whole(tmp_path):
    audit = await three(tmp_path)
    audit.path.rename(tmp_path / "moved")
    audit.path.symlink_to("/dev/full")
    with pytest.raises(AuditError, match="what is not on record is not done"):
        await audit.write("act", verb="resume")
    audit.path.unlink()
    (tmp_path / "moved").rename(audit.path)
    await audit.write("act", verb="ack")
    assert len(list(lines(audit.path))) == 4


@pytest.mark.parametrize("content", [b"nonsense\n", b"{}\n", json.dumps([1]).encode() + b"\n"])
async def test_a_file_that_is_no_audit_log_is_refused(tmp_path, content):
    (tmp_path / "audit.jsonl").write_bytes(content)
    with pytest.raises(AuditError, match="its last line"):
        log(tmp_path)
