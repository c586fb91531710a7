"""What a guest writes is data from a stranger: its reports, and the lines that they are on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.drivers.libvirt.channels import DETAIL_LIMIT, LINE_LIMIT, MOST_RESTARTS, Lines, parse_report
from service.drivers.reports import GuestReport
from tests.service.drivers.libvirt.reports import line

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def test_a_report_is_read() -> None:
    clash = "52:54:00:00:00:01"
    for said, told in ((clash, clash), (clash + "x", ""), ("<b>", ""), (7, "")):
        met = parse_report(line(clash=said), 7.0)
        assert met is not None
        assert met.clash == told


def test_what_ails_devices_is_told_in_its_form_or_not_at_all() -> None:
    one = ("0000:06:00.0", "Xid 79")
    for said, told in (
        ("0000:06:00.0 Xid 79;", (one,)),
        ("0000:06:00.0 Xid 79; 0000:07:00.0 ECC;x;0000:08:00.0", (one, ("0000:07:00.0", "ECC"))),
        ("06:00.0 Xid 79", ()),
        (["0000:06:00.0 Xid 79"], ()),
        (None, ()),
        ("0000:06:00.0 " + "x" * 81, ()),
    ):
        met = parse_report(line(ailing=said), 7.0)
        assert met is not None
        assert met.ailing == told
    for name, kept in (("b-1", "b-1"), ("b" * 65, ""), ("<b>", ""), (7, "")):
        booted = parse_report(line(boot_id=name), 7.0)
        assert booted is not None
        assert booted.boot_id == kept
    for weights, far in (
        ("5 9 2", (5, 9, 2)),
        ("", None),
        ("5 9", None),
        ("-5 9 2", None),
        ("5 9 " + "2" * 17, None),
        (5, None),
    ):
        fetching = parse_report(line(weights=weights), 7.0)
        assert fetching is not None
        assert fetching.weights == far
    for fault, word in (("WEIGHTS_MISMATCH", "WEIGHTS_MISMATCH"), ("OTHER", ""), (1, "")):
        stuck = parse_report(line(fault=fault), 7.0)
        assert stuck is not None
        assert stuck.fault == word
    supervised = parse_report(line(count=9, answered=4, restarts=2, rank=1), 7.0)
    assert supervised == GuestReport("ready", "d", 3, "10.0.0.1", 7.0, 9, 4, 2, 1)
    strange = parse_report(line(answered=-1, restarts=1 << 30, rank="x", epoch=1 << 31), 7.0)
    assert strange is not None
    assert (strange.answered, strange.restarts, strange.rank, strange.epoch) == (-1, MOST_RESTARTS, -1, 0)
    assert parse_report(line(), 7.0) == GuestReport("ready", "d", 3, "10.0.0.1", 7.0)
    assert parse_report(line(count=9), 7.0) == GuestReport("ready", "d", 3, "10.0.0.1", 7.0, 9)
    assert parse_report(line(count=-1), 7.0) == parse_report(line(count=True), 7.0) == parse_report(line(), 7.0)


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"ready",
        b"[1]",
        b"{",
        b"\xff\xfe",
        b"[" * 5000,
        line(v=2),
        line(stage=""),
        line(stage=3),
        line(stage="a b"),
        line(stage="x" * 33),
        line(stage="<b>"),
    ],
)
def test_what_is_no_report_is_dropped(wrong: bytes) -> None:
    assert parse_report(wrong, 0.0) is None


@given(st.fixed_dictionaries({"v": st.just(1), "stage": JSON, "detail": JSON, "epoch": JSON, "address": JSON}) | JSON)
def test_nothing_that_a_guest_says_raises_or_gets_long(value: Any) -> None:
    found = parse_report(json.dumps(value).encode(), 0.0)
    if found is not None:
        assert found.stage.isidentifier()
        assert len(found.detail) <= DETAIL_LIMIT
        assert found.detail.isprintable()
        assert found.address.isprintable()
        assert found.epoch >= 0


@given(st.binary(max_size=3000))
def test_any_bytes_are_survived(data: bytes) -> None:
    for part in Lines().feed(data):
        parse_report(part, 0.0)


@given(st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"")), max_size=8), st.data())
def test_lines_do_not_depend_on_how_the_bytes_came(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(part + b"\n" for part in lines)
    cut = Lines()
    found: list[bytes] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += cut.feed(stream[:size])
        stream = stream[size:]
    assert found == [part for part in lines if part.strip()]


def test_a_line_without_end_takes_no_memory_and_the_next_one_is_read() -> None:
    cut = Lines()
    for _ in range(100):
        assert cut.feed(b"x" * LINE_LIMIT) == []
        assert len(cut._rest) <= LINE_LIMIT
    assert cut.feed(b"end\nnext\n") == [b"next"]
