"""A guest's channel: when it is listened to, what is news, and what a guest is told by it."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import replace
from typing import Any

import libvirt
import pytest

from service.drivers.base import HostRejected
from service.drivers.libvirt import channels
from service.drivers.libvirt.channels import Channels, parse_report
from service.drivers.libvirt.connection import Work
from service.drivers.libvirt.silence import Silence
from service.drivers.reports import GuestReport
from tests.service.drivers.libvirt.fake import error
from tests.service.drivers.libvirt.reports import line

REPORT = GuestReport("ready", "", 1, "", 0.0, count=1)


class Stream:
    """A channel's stream whose guest has written `pieces`."""

    def __init__(self, pieces: list[Any]) -> None:
        self.pieces = pieces
        self.callback: Any = None
        self.calls: list[str] = []
        self.written = b""

    def eventAddCallback(self, _events: int, callback: Any, _opaque: Any) -> int:  # noqa: N802
        self.callback = callback
        return 0

    def eventRemoveCallback(self) -> int:  # noqa: N802
        return 0

    def abort(self) -> int:
        self.calls.append("abort")
        return 0

    def send(self, data: bytes) -> int:
        """Takes a few bytes at a time, and now and then none."""
        self.calls.append("send")
        if len(self.calls) % 3 == 0:
            return -2
        self.written += data[:7]
        return len(data[:7])

    def recv(self, _size: int) -> Any:
        piece = self.pieces.pop(0) if self.pieces else -2
        if isinstance(piece, Exception):
            raise piece
        return piece


class Host:
    """A connection and its domain in one."""

    def __init__(self, stream: Stream, *, refuses: bool = False) -> None:
        self.stream = stream
        self.refuses = refuses
        self.flags: list[int] = []

    def newStream(self, flags: int) -> Stream:  # noqa: N802
        assert flags & libvirt.VIR_STREAM_NONBLOCK
        return self.stream

    def openChannel(self, _name: str, _stream: Stream, flags: int) -> int:  # noqa: N802
        self.flags.append(flags)
        if self.refuses:
            raise error(libvirt.VIR_ERR_OPERATION_FAILED)
        return 0


def listened(pieces: list[Any]) -> tuple[Channels, Stream, list[str]]:
    news: list[str] = []
    channels = Channels(news.append)
    stream = Stream(pieces)
    host = Host(stream)
    assert channels.listen(host, host, "m", "channel", take_over=False)
    return channels, stream, news


def test_only_what_is_new_is_news() -> None:
    channels, stream, news = listened([line() + b"\n" + line() + b"\n", line(stage="stopping") + b"\n"])
    stream.callback(stream, libvirt.VIR_STREAM_EVENT_READABLE, None)
    assert news == ["m", "m"]
    report = channels.report("m")
    assert report is not None
    assert report.stage == "stopping"


@pytest.mark.parametrize("end", [b"", error(libvirt.VIR_ERR_SYSTEM_ERROR)])
def test_a_channel_that_ended_can_be_opened_again_and_the_report_stays(end: Any) -> None:
    channels, stream, _ = listened([line() + b"\n", end])
    stream.callback(stream, libvirt.VIR_STREAM_EVENT_READABLE, None)
    assert not channels.listening("m")
    assert channels.report("m") is not None


def test_a_hangup_ends_the_channel() -> None:
    channels, stream, _ = listened([])
    stream.callback(stream, libvirt.VIR_STREAM_EVENT_HANGUP, None)
    assert not channels.listening("m")


def test_a_new_run_starts_without_the_old_report() -> None:
    channels, stream, _ = listened([line() + b"\n"])
    stream.callback(stream, libvirt.VIR_STREAM_EVENT_READABLE, None)
    channels.forget("m")
    assert channels.report("m") is None
    assert stream.calls == ["abort"]
    stream.pieces.append(line() + b"\n")
    stream.callback(stream, libvirt.VIR_STREAM_EVENT_READABLE, None)
    assert channels.report("m") is None


def test_who_hangs_up_ends_the_stream_at_once_and_listens_again_only_to_the_next_run() -> None:
    channels, stream, _ = listened([line() + b"\n"])
    stream.callback(stream, libvirt.VIR_STREAM_EVENT_READABLE, None)
    channels.hang_up("m")
    assert stream.calls == ["abort"]
    assert channels.report("m") is not None
    host = Host(Stream([]))
    assert not channels.listen(host, host, "m", "channel", take_over=False)
    assert host.flags == []
    assert not channels.listen(host, host, "m", "channel", take_over=True)
    assert channels.listen(host, host, "m", "channel", take_over=True, new_run=True)
    channels.hang_up("m")
    channels.forget("m")
    assert channels.listen(host, host, "m", "channel", take_over=False)


def test_a_channel_that_is_opened_while_its_machine_is_ended_is_closed_again() -> None:
    channels = Channels(lambda _machine: None)

    class Late(Host):
        def openChannel(self, _name: str, _stream: Stream, _flags: int) -> int:  # noqa: N802
            channels.hang_up("m")
            return 0

    host = Late(Stream([]))
    assert not channels.listen(host, host, "m", "channel", take_over=False)
    assert host.stream.calls == ["abort"]
    assert not channels.listening("m")


def test_a_lost_connection_closes_all_and_keeps_the_reports() -> None:
    channels, stream, _ = listened([line() + b"\n"])
    stream.callback(stream, libvirt.VIR_STREAM_EVENT_READABLE, None)
    channels.connection_lost()
    assert not channels.listening("m")
    assert channels.report("m") is not None
    assert stream.calls == []  # there is nobody to tell


def test_machines_that_are_gone_are_forgotten() -> None:
    channels, stream, _ = listened([line() + b"\n"])
    stream.callback(stream, libvirt.VIR_STREAM_EVENT_READABLE, None)
    channels.keep_only({"m"})
    assert channels.report("m") is not None
    channels.keep_only({"other"})
    assert channels.report("m") is None


@pytest.mark.parametrize("take_over", [False, True])
def test_a_channel_that_is_refused_is_no_error(take_over: bool) -> None:
    channels = Channels(lambda _machine: None)
    host = Host(Stream([]), refuses=True)
    assert not channels.listen(host, host, "m", "channel", take_over=take_over)
    assert host.flags == [libvirt.VIR_DOMAIN_CHANNEL_FORCE if take_over else 0]


def test_a_refused_channel_is_told_aloud_once_until_it_opens_or_its_machine_goes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    channels = Channels(lambda _machine: None)
    host = Host(Stream([]), refuses=True)

    def told() -> int:
        caplog.clear()
        channels.listen(host, host, "m", "channel", take_over=False)
        return sum(r.levelname == "WARNING" and "machine m cannot be read" in r.message for r in caplog.records)

    assert [told(), told(), told()] == [1, 0, 0]
    host.refuses = False
    assert told() == 0
    channels.forget("m")
    host.refuses = True
    assert [told(), told()] == [1, 0]
    channels.keep_only(set())
    assert told() == 1


def test_how_long_a_channel_was_refused_is_known_until_it_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    channels, times = Channels(lambda _machine: None), [200.0]
    monkeypatch.setattr("service.drivers.libvirt.channels.time.monotonic", lambda: times[-1])
    host = Host(Stream([]), refuses=True)
    assert channels.unheard_seconds("m") == 0
    assert not channels.listen(host, host, "m", "channel", take_over=False)
    times.append(207.0)
    assert not channels.listen(host, host, "m", "channel", take_over=False)
    assert channels.unheard_seconds("m") == 7
    host.refuses = False
    assert channels.listen(host, host, "m", "channel", take_over=True)
    assert channels.unheard_seconds("m") == 0


def test_a_report_tells_since_when_its_guest_would_have_been_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.drivers.libvirt.channels.time.monotonic", lambda: 50.0)
    channels, stream, _ = listened([line() + b"\n"])
    stream.callback(stream, libvirt.VIR_STREAM_EVENT_READABLE, None)

    def since() -> float:
        report = channels.report("m")
        assert report is not None
        return report.heard_since

    assert since() == 50
    stream.callback(stream, libvirt.VIR_STREAM_EVENT_HANGUP, None)
    assert since() == math.inf
    monkeypatch.setattr("service.drivers.libvirt.channels.time.monotonic", lambda: 90.0)
    host = Host(Stream([]))
    assert channels.listen(host, host, "m", "channel", take_over=False)
    assert since() == 90


def test_a_guest_is_silent_after_a_time_that_its_own_longest_pause_says(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("service.drivers.libvirt.channels.time.monotonic", lambda: now[0])
    channels, stream, _ = listened([])

    def at(seconds: float, count: int = 1) -> float:
        """When it is silent after a word at this time."""
        now[0] = seconds
        channels._received("m", replace(REPORT, received_at=seconds, count=count))
        return channels.reports()["m"].silent_at

    assert at(10, 0) == math.inf, "it does not count"
    assert at(30) == 45, "how fast it speaks is not known"
    assert at(31) == 39, "every second"
    assert at(33) == 43, "every two"
    assert at(40) == 55, "slowly, but there is an end"
    for second in range(41, 400):
        at(second)
    assert at(400) == 408, "what was long ago fades"
    stream.callback(stream, libvirt.VIR_STREAM_EVENT_HANGUP, None)
    assert channels.reports()["m"].silent_at == math.inf, "nobody hears it"
    now[0] = 500
    host = Host(Stream([]))
    assert channels.listen(host, host, "m", "channel", take_over=False)
    assert channels.reports()["m"].silent_at == 508
    assert at(501) == 509, "what nobody heard was no pause"
    channels.was_reset("m")
    assert at(520) == 535, "another run"


@pytest.mark.asyncio
async def test_who_falls_silent_is_told_once_when_that_is(monkeypatch: pytest.MonkeyPatch) -> None:
    channels, stream, _ = listened([])
    told: list[str] = []
    silent = asyncio.Event()

    def heard(uuid: str) -> None:
        told.append(uuid)
        silent.set()

    monkeypatch.setattr("service.drivers.reports.MOST_SILENT_SECONDS", 0.2)
    monkeypatch.setattr("service.drivers.libvirt.silence.SELDOM_SECONDS", 0.01)
    silence = Silence(channels, heard)
    silence.watch()
    silence.watch()
    for _ in range(2):
        silent.clear()
        channels._received("m", replace(REPORT, received_at=time.monotonic(), count=1))
        channels._received("n", replace(REPORT, received_at=time.monotonic(), count=0))
        spoke = time.monotonic()
        async with asyncio.timeout(30):
            await silent.wait()
        assert time.monotonic() >= spoke + 0.15, "not before"
        looks = silence._told
        async with asyncio.timeout(30):
            while silence._told is looks:  # noqa: ASYNC110  # it looked again
                await asyncio.sleep(0.01)
    assert told == ["m", "m"]
    silence.end()
    stream.callback(stream, libvirt.VIR_STREAM_EVENT_HANGUP, None)


def test_a_guest_that_never_stops_does_not_keep_the_event_thread() -> None:
    channels, stream, _ = listened([line() + b"\n"] * 1000)
    stream.callback(stream, libvirt.VIR_STREAM_EVENT_READABLE, None)
    assert len(stream.pieces) > 900
    assert channels.listening("m")


def test_a_guest_is_told_all_of_it_however_little_it_takes_at_once() -> None:
    stream = Stream([])
    channels = Channels(lambda _uuid: None)
    host = Host(stream)
    assert channels.listen(host, host, "m", "org.corral.progress", take_over=False)
    channels.tell(Work(30), "m", "a line of some length\n")
    assert stream.written == b"a line of some length\n"
    channels.hang_up("m")
    for uuid in ("m", "unknown"):
        with pytest.raises(HostRejected):
            channels.tell(Work(30), uuid, "x")


def test_a_guest_that_takes_nothing_is_given_up_long_before_the_call_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "TAKES_NOTHING_SECONDS", 0.1)
    frozen = Stream([])
    monkeypatch.setattr(frozen, "send", lambda _data: -2)
    heard = Channels(lambda _uuid: None)
    host = Host(frozen)
    assert heard.listen(host, host, "m", "org.corral.progress", take_over=False)
    with pytest.raises(HostRejected, match="does not take"):
        heard.tell(Work(60), "m", "a line")
    assert heard.listening("m"), "it may say something yet"


def test_a_guest_that_says_nothing_is_told_no_more_than_its_host_keeps_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "TAKES_NOTHING_SECONDS", 0.1)
    monkeypatch.setattr(channels, "TOLD_AT_ONCE", 1000)
    stream = Stream([])
    heard = Channels(lambda _uuid: None)
    host = Host(stream)
    assert heard.listen(host, host, "m", "org.corral.progress", take_over=False)
    for _ in range(2):
        with pytest.raises(HostRejected, match="does not take"):
            heard.tell(Work(60), "m", "x" * 5000)
        assert len(stream.written) == 1000, "what libvirtd keeps for it stops its connection"
    stream.pieces.append(line() + b"\n")
    stream.callback(stream, libvirt.VIR_STREAM_EVENT_READABLE, None)
    heard.tell(Work(60), "m", "y" * 900)
    assert stream.written == b"x" * 1000 + b"y" * 900


def test_a_guest_that_goes_on_saying_something_is_told_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "TOLD_AT_ONCE", 1000)
    monkeypatch.setattr(channels, "TAKES_NOTHING_SECONDS", 30.0)
    stream = Stream([])
    heard = Channels(lambda _uuid: None)
    host = Host(stream)
    assert heard.listen(host, host, "m", "org.corral.progress", take_over=False)
    before: list[int] = []

    def speak(_pause: float) -> None:
        before.append(len(stream.written))
        stream.pieces.append(line() + b"\n")
        stream.callback(stream, libvirt.VIR_STREAM_EVENT_READABLE, None)

    def take(data: bytes) -> int:
        stream.written += data
        return len(data)

    work = Work(60)
    monkeypatch.setattr(work, "pause", speak)
    monkeypatch.setattr(stream, "send", take)
    heard.tell(work, "m", "x" * 10_000)
    assert stream.written == b"x" * 10_000
    assert before == [1000, 3000, 7000], "more at once, the longer it takes it"


def test_what_a_guest_said_before_its_machine_was_reset_is_true_no_more() -> None:
    channels = Channels(lambda _: None)
    report = parse_report(line(), 7.0)
    assert report is not None
    channels._received("m", report)
    assert (channels.report("m") is not None, channels.reset_seconds("m")) == (True, None)
    channels.was_reset("m")
    assert channels.report("m") is None
    assert channels.reset_seconds("m") is not None
    channels.forget("m")  # it is another run
    assert channels.reset_seconds("m") is None
