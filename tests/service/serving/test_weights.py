"""The model's weights as a guest fetches them: checked before the engine starts, gone on with where it broke off."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.serving.guest import SHELLS, Guest, order, port, until
from tests.service.serving.test_address_clash import without
from tests.support.source import Source, source

DATA = bytes(range(256)) * 1600
TOOLS = {"curl", "wget", "busybox", "python3"}


@pytest.fixture
def web() -> Iterator[Source]:
    with source() as made:
        made.files["/models/ring.gguf"] = DATA
        yield made


EVERY = [("dash", "curl"), ("dash", "wget"), ("dash", "python3"), ("busybox", "busybox")]
"""Shells of guests, each with a program that fetches. What is no matter of theirs is tried with the first alone."""
by_each = pytest.mark.parametrize("guest", EVERY, ids="-".join, indirect=True)


@pytest.fixture
def guest(
    tmp_path: Path, request: pytest.FixtureRequest, web: Source, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Guest]:
    name, tool = getattr(request, "param", EVERY[0])
    shell = next((s for s in SHELLS if s[0] == name), None)
    if shell is None:
        pytest.skip(f"no {name} is here")
    shown = without(tmp_path / "bin", TOOLS - {tool})
    if tool == "busybox":
        (shown / "wget").symlink_to(shown / "busybox")
    if not (shown / tool).exists():
        pytest.skip(f"no {tool} is here")
    monkeypatch.setenv("PATH", str(shown))
    made = Guest(tmp_path, shell)
    own = {"CORRAL_WEIGHTS": str(tmp_path / "weights"), "CORRAL_NEWS_SECONDS": "0", "CORRAL_MOST_PAUSE": "1"}
    made.environment |= own
    yield made
    web.gate = lambda sent: None
    made.stop()


def facts(web: Source, data: bytes = DATA, path: str = "/models/ring.gguf") -> dict[str, str]:
    return {"CORRAL_WEIGHTS_URI": web.url(path), "CORRAL_WEIGHTS_SHA256": hashlib.sha256(data).hexdigest()}


def kept(guest: Guest) -> Path:
    return guest.directory / "weights" / guest.facts["CORRAL_WEIGHTS_SHA256"]


def started(guest: Guest) -> Path:
    return guest.directory / "began"


ENGINE = 'echo "$CORRAL_WEIGHTS_PATH" >> {}; exec sleep 600'


def told(guest: Guest) -> tuple[int, int, int]:
    """Bytes that are there, of all, and a second."""
    text: Any = guest.report().get("weights", "")
    first, second, third = (int(part) for part in text.split()) if text else (-1, -1, -1)
    return first, second, third


@by_each
def test_the_engine_starts_once_they_are_whole_and_is_told_where(guest: Guest, web: Source) -> None:
    held: list[bool] = []
    web.gate = lambda sent: until(lambda: held, "the test goes on") if sent == 200_000 else None
    guest.start(ENGINE.format(started(guest)), **facts(web))
    report = guest.at("staging", f"fetching the weights from {web.url('/models/ring.gguf')}")
    until(lambda: 100_000 <= told(guest)[0] <= 200_000 and told(guest)[1] == len(DATA), "how far it is")
    assert (report["fault"], started(guest).exists()) == ("", False)
    held.append(True)
    guest.at("ready")
    path = Path(started(guest).read_text().strip())
    assert path == kept(guest) / "ring.gguf"
    assert path.read_bytes() == DATA
    assert guest.report()["weights"] == ""
    assert os.listdir(kept(guest)) == ["ring.gguf"]


@by_each
def test_it_goes_on_where_the_line_broke(guest: Guest, web: Source) -> None:
    web.cuts = [100_000, 100_000]
    guest.start(ENGINE.format(started(guest)), **facts(web))
    guest.at("ready")
    assert [first for _, first, _ in web.asked][:3] == [0, 100_000, 200_000]
    assert (kept(guest) / "ring.gguf").read_bytes() == DATA


@by_each
def test_it_goes_on_where_a_supervisor_was_killed(guest: Guest, web: Source) -> None:
    held: list[bool] = []
    web.gate = lambda sent: until(lambda: held, "the test goes on") if sent == 200_000 and not held else None
    guest.start(ENGINE.format(started(guest)), **facts(web))
    until(lambda: told(guest)[0] >= 100_000, "half of it")
    ended = guest.killed(but=int((guest.run / "bringer").read_text().split()[0]))
    assert ended > 0
    web.asked.clear()
    guest.again()
    until(lambda: web.asked, "it is asked for the rest")
    held.append(True)
    guest.at("ready")
    assert web.asked[0][1] >= 100_000, "what is there is not fetched again"
    assert (kept(guest) / "ring.gguf").read_bytes() == DATA


@by_each
def test_what_is_there_and_right_is_not_fetched_again_by_a_later_boot(guest: Guest, web: Source) -> None:
    guest.start(ENGINE.format(started(guest)), **facts(web))
    guest.at("ready")
    guest.stop()
    (guest.run / "weights").unlink()  # a boot forgets what the one before has seen
    (guest.run / "report").unlink()
    web.asked.clear()
    guest.again()
    guest.at("ready")
    assert [first for _, first, _ in web.asked] in ([], [len(DATA)])
    guest.stop()
    (guest.run / "weights").unlink()
    (guest.run / "report").unlink()
    (kept(guest) / "ring.gguf").write_bytes(DATA[:-1] + b"x")
    guest.again()
    guest.at("ready")
    assert (kept(guest) / "ring.gguf").read_bytes() == DATA, "a disk that changed under it is noticed"


def test_other_bytes_than_were_asked_for_start_nothing_and_say_why(guest: Guest, web: Source) -> None:
    host, channel = port()
    try:
        guest.start(ENGINE.format(started(guest)), channel, **facts(web, b"other"))
        found, asked = hashlib.sha256(DATA).hexdigest(), hashlib.sha256(b"other").hexdigest()
        report = guest.at("failed", f"have the SHA-256 {found}, not {asked}")
        assert (report["fault"], started(guest).exists()) == ("WEIGHTS_MISMATCH", False)
        assert os.listdir(kept(guest)) == [], "what is wrong takes no room"
        os.write(host, order(guest, 5, **facts(web)))
        guest.at("ready")
        assert guest.report()["fault"] == ""
    finally:
        guest.stop()
        os.close(host)


def test_pieces_of_two_files_are_fetched_once_more_from_the_beginning(guest: Guest, web: Source) -> None:
    guest.facts = facts(web)
    kept(guest).mkdir(parents=True)
    (kept(guest) / "part").write_bytes(b"x" * 100_000)
    guest.start(ENGINE.format(started(guest)), **facts(web))
    guest.at("ready")
    assert [first for _, first, _ in web.asked] == [100_000, 0]
    assert (kept(guest) / "ring.gguf").read_bytes() == DATA


def test_a_server_that_knows_no_ranges_is_asked_for_all_of_it(guest: Guest, web: Source) -> None:
    web.ranges, web.cuts = False, [100_000]
    guest.start(ENGINE.format(started(guest)), **facts(web))
    guest.at("ready")
    assert (kept(guest) / "ring.gguf").read_bytes() == DATA


def test_what_the_server_does_not_give_is_told_and_asked_for_again(guest: Guest, web: Source) -> None:
    del web.files["/models/ring.gguf"]
    guest.start(ENGINE.format(started(guest)), **facts(web))
    report = guest.at("staging", f"the weights come no further from {web.url('/models/ring.gguf')}: 0")
    assert report["fault"] == ""
    web.files["/models/ring.gguf"] = DATA
    guest.at("ready")


def test_more_than_there_is_room_for_is_a_fault_of_its_own(guest: Guest, web: Source) -> None:
    shown = Path(os.environ["PATH"])
    (shown / "df").unlink()
    (shown / "df").write_text("#!/bin/sh\necho head\necho /dev/vda1 1000 900 100 90% /\n")
    (shown / "df").chmod(0o755)
    held: list[bool] = []
    web.gate = lambda sent: until(lambda: held, "the test is over") if sent == 200_000 else None
    guest.start(ENGINE.format(started(guest)), **facts(web))
    report = guest.at("failed", f"take {len(DATA)} bytes, and {kept(guest)} has room for")
    assert (report["fault"], started(guest).exists()) == ("WEIGHTS_NO_ROOM", False)
    held.append(True)


def test_weights_of_another_model_are_taken_away(guest: Guest, web: Source) -> None:
    old = guest.directory / "weights" / ("0" * 64)
    old.mkdir(parents=True)
    (old / "old.gguf").write_bytes(b"old")
    guest.start(ENGINE.format(started(guest)), **facts(web, path="/models/ring.gguf"))
    guest.at("ready")
    assert not old.exists()
