"""Reads what guests write to their progress channels, over the hypervisor connection: no guest network is needed."""

from __future__ import annotations

import json
import logging
import math
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import libvirt

from service.domain import staging
from service.drivers.base import HostRejected
from service.drivers.libvirt.connection import Work
from service.drivers.libvirt.errors import describe
from service.drivers.reports import GuestReport

_log = logging.getLogger(__name__)

# A guest is not trusted: it gets no more memory here than this, and its text is cut.
LINE_LIMIT = 8192
DETAIL_LIMIT = 500
STAGE_LIMIT = 32
READ_SIZE = 16384
# What a column holds, and far more than any guest counts.
MOST_RESTARTS = 1_000_000
_HARDWARE_ADDRESS = re.compile("[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_AILING = re.compile(r"([0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]) ([ -~]{1,80})")
MOST_AILING = 64
_BOOT_ID = re.compile("[0-9A-Za-z-]{1,64}")
# How long a guest's end that takes nothing more is waited for before the next part is offered.
WRITE_PAUSE_SECONDS = 0.02
TAKES_NOTHING_SECONDS = 2.0
"""A guest that takes nothing for so long is left alone: whoever looks at its host waits behind what it is told."""
TOLD_AT_ONCE, MOST_UNHEARD = 16 << 10, 128 << 10
"""Bytes that a guest is told without a word of its own in between, at first and at most; it reports all the time.

What one that hangs does not take, libvirtd (9.0) keeps: with a quarter of a socket's buffer, some 50 KiB, it does not
see the end of the stream any more, and with a few hundred KiB it reads nothing more from the connection, whoever asks.
"""
# A guest that never stops writing must not keep the one event thread to itself.
READS_AT_A_TIME = 8
PAUSES_FADE = 0.99
"""With each word of a guest the longest pause before it counts for so much less."""


def parse_report(line: bytes, received_at: float) -> GuestReport | None:
    """A line of the guest's, or None when it is not a report of version 1. Never raises."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or found.get("v") != 1:
        return None
    stage, detail, epoch, address = (found.get(key) for key in ("stage", "detail", "epoch", "address"))
    clash, boot_id, endpoint = found.get("clash"), found.get("boot_id"), found.get("endpoint")
    if not isinstance(stage, str) or not stage.isidentifier() or len(stage) > STAGE_LIMIT:
        return None
    return GuestReport(
        stage=stage,
        detail=_plain(detail)[:DETAIL_LIMIT],
        epoch=_number(epoch),
        address=_plain(address)[:64],
        received_at=received_at,
        count=_number(found.get("count")),
        answered=_number(found.get("answered"), -1),
        restarts=min(_number(found.get("restarts")), MOST_RESTARTS),
        rank=_number(found.get("rank"), -1),
        clash=clash if isinstance(clash, str) and _HARDWARE_ADDRESS.fullmatch(clash) else "",
        boot_id=boot_id if isinstance(boot_id, str) and _BOOT_ID.fullmatch(boot_id) else "",
        endpoint=_plain(endpoint)[:64] if isinstance(endpoint, str) else None,
        ailing=_ailing(found.get("ailing")),
        weights=staging.far(found.get("weights")),
        fault=staging.fault(found.get("fault")),
    )


def _ailing(value: Any) -> tuple[tuple[str, str], ...]:
    """Of `ADDRESS WORDS;ADDRESS WORDS`; what is not of that form says nothing."""
    told = value.split(";")[:MOST_AILING] if isinstance(value, str) else ()
    return tuple((match[1], match[2]) for one in told if (match := _AILING.fullmatch(one.strip())))


def _number(value: Any, otherwise: int = 0) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31 else otherwise


def _plain(value: Any) -> str:
    return "".join(c for c in value if c.isprintable()) if isinstance(value, str) else ""


class Lines:
    """Cuts a stream of bytes into lines; one that is too long is dropped whole."""

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete now, without empty ones."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        if whole and self._skipping:
            whole = whole[1:]
            self._skipping = False
        if len(self._rest) > LINE_LIMIT:
            self._rest, self._skipping = b"", True
        return [line for line in whole if line.strip() and len(line) <= LINE_LIMIT]


class Channel:
    """One open channel. Lives on libvirt's event thread until `close`, or until the other side ends it."""

    def __init__(self, stream: Any, on_report: Callable[[GuestReport], None]) -> None:
        self._stream = stream
        self._on_report = on_report
        self._lines = Lines()
        self._lock = threading.Lock()
        self.open = True
        self._unheard = 0
        self.since = time.monotonic()

    def start(self) -> None:
        """Begins to listen."""
        events = libvirt.VIR_STREAM_EVENT_READABLE | libvirt.VIR_STREAM_EVENT_HANGUP | libvirt.VIR_STREAM_EVENT_ERROR
        self._stream.eventAddCallback(events, self._happened, None)

    def _happened(self, stream: Any, events: int, _opaque: Any) -> None:
        with self._lock:
            if not self.open:
                return
            try:
                ended = self._read(stream)
            except libvirt.libvirtError as error:
                _log.debug("progress channel: %s", describe(error))
                ended = True
            gone = events & (libvirt.VIR_STREAM_EVENT_HANGUP | libvirt.VIR_STREAM_EVENT_ERROR)
            if ended or gone:
                self._let_go()

    def _read(self, stream: Any) -> bool:
        """Takes what has come. True at the end of the stream."""
        for _ in range(READS_AT_A_TIME):
            data = stream.recv(READ_SIZE)
            if data == -2:  # nothing more for now
                return False
            if not data:
                return True
            self._unheard = 0
            for line in self._lines.feed(data):
                report = parse_report(line, time.monotonic())
                if report is not None:
                    self._on_report(report)
        return False

    def write(self, work: Work, data: bytes) -> None:
        """All of it, as fast as the guest takes it. Raises HostRejected where the channel is closed or the guest takes
        nothing, and what a call raises whose time is over."""
        window, full = TOLD_AT_ONCE, False
        taken_at = -math.inf if self._unheard >= window else time.monotonic()
        while data:
            with self._lock:
                if not self.open:
                    raise HostRejected("absent", "the guest's progress channel is closed")
                room = window - self._unheard
                sent = self._stream.send(data[: min(READ_SIZE, room)]) if room > 0 else 0
                self._unheard += max(0, sent)
            if sent > 0:
                data, taken_at = data[sent:], time.monotonic()
                window, full = min(window * 2, MOST_UNHEARD) if full else window, False
            elif time.monotonic() - taken_at > TAKES_NOTHING_SECONDS:
                raise HostRejected("absent", "the guest does not take what it is told")
            else:
                full = full or room <= 0
                work.pause(WRITE_PAUSE_SECONDS)

    def _let_go(self) -> None:
        self.open = False
        try:
            self._stream.eventRemoveCallback()
        except libvirt.libvirtError as error:
            _log.debug("progress channel: %s", describe(error))

    def drop(self) -> None:
        """Stops listening. Makes no call: for any thread, and for streams whose connection is gone."""
        with self._lock:
            if self.open:
                self._let_go()

    def abort(self) -> None:
        """Ends the stream, after `drop`. Calls the host: only in a call's thread, which may wait."""
        try:
            self._stream.abort()
        except libvirt.libvirtError as error:
            _log.debug("progress channel: %s", describe(error))


class Channels:
    """The open channels of one host's machines, and the newest report of each.

    `listen`, `hang_up`, `forget` and `keep_only` talk to the host: they belong in a call to it, `listen` in one on the
    connection that is to carry the channels. The others are safe anywhere.

    `on_report(machine_uuid)` is called, on any thread, after a report was stored that says something new.
    """

    def __init__(self, on_report: Callable[[str], None]) -> None:
        self._on_report = on_report
        self._lock = threading.Lock()
        self._channels: dict[str, Channel] = {}
        self._reports: dict[str, GuestReport] = {}
        self._refused: dict[str, float] = {}  # since when, in s of the monotonic clock
        self._ending: set[str] = set()
        self._reset_at: dict[str, float] = {}  # in s of the monotonic clock

    def report(self, machine_uuid: str) -> GuestReport | None:
        """The newest report, or None."""
        with self._lock:
            return self._as_heard(machine_uuid)

    def reports(self) -> dict[str, GuestReport]:
        """The newest report of each machine that has said something."""
        with self._lock:
            found = ((machine_uuid, self._as_heard(machine_uuid)) for machine_uuid in self._reports)
            return {machine_uuid: report for machine_uuid, report in found if report is not None}

    def _as_heard(self, machine_uuid: str) -> GuestReport | None:
        report, channel = self._reports.get(machine_uuid), self._channels.get(machine_uuid)
        if report is None:
            return None
        return replace(report, heard_since=channel.since if channel is not None and channel.open else math.inf)

    def unheard_seconds(self, machine_uuid: str) -> float:
        """For how long the channel has been refused; 0 where it was not, or has opened since."""
        with self._lock:
            since = self._refused.get(machine_uuid)
        return 0.0 if since is None else time.monotonic() - since

    def was_reset(self, machine_uuid: str) -> None:
        """Its host tells that it boots anew: what its guest has said is true no more."""
        with self._lock:
            self._reports.pop(machine_uuid, None)
            self._reset_at[machine_uuid] = time.monotonic()

    def reset_seconds(self, machine_uuid: str) -> float | None:
        """How long ago it was reset; None where that was not told of this run."""
        with self._lock:
            at = self._reset_at.get(machine_uuid)
        return None if at is None else time.monotonic() - at

    def listening(self, machine_uuid: str) -> bool:
        """Whether a channel of the machine is open."""
        with self._lock:
            channel = self._channels.get(machine_uuid)
            return channel is not None and channel.open

    def listen(
        self, connection: Any, domain: Any, machine_uuid: str, name: str, *, take_over: bool, new_run: bool = False
    ) -> bool:
        """Opens the channel unless it is open. False where it cannot be had.

        `take_over`: end another client's hold of it. Only one can read a channel at a time. `new_run`: whoever hung up
        did so for the run before this one.
        """
        if self.listening(machine_uuid):
            return True
        if not new_run and self._is_ending(machine_uuid):
            return False
        stream = connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
        flags = libvirt.VIR_DOMAIN_CHANNEL_FORCE if take_over else 0
        try:
            domain.openChannel(name, stream, flags)
            channel = Channel(stream, lambda report: self._received(machine_uuid, report))
            channel.start()
        except libvirt.libvirtError as error:
            self._tell_refusal(machine_uuid, error)
            return False
        with self._lock:
            self._channels[machine_uuid] = channel
            self._refused.pop(machine_uuid, None)
            if new_run:
                self._ending.discard(machine_uuid)
        if self._is_ending(machine_uuid):  # since it was asked above
            self.hang_up(machine_uuid)
            return False
        return True

    def tell(self, work: Work, machine_uuid: str, text: str) -> None:
        """Write to the guest. Raises HostRejected `absent` where no channel of it is open."""
        with self._lock:
            channel = self._channels.get(machine_uuid)
        if channel is None:
            raise HostRejected("absent", "the guest has no progress channel that is open here")
        channel.write(work, text.encode())

    def _is_ending(self, machine_uuid: str) -> bool:
        with self._lock:
            return machine_uuid in self._ending

    def hang_up(self, machine_uuid: str) -> None:
        """Ends the channel of a machine whose process is about to be ended, and opens none before its next run.

        libvirtd 9.0 frees a domain's streams without checking whether its event thread is closing one at that moment,
        as it does when the process dies under an open stream: now and then it crashes, for everybody on the host.
        """
        with self._lock:
            self._ending.add(machine_uuid)
            channel = self._channels.pop(machine_uuid, None)
        if channel is not None:
            channel.drop()
            channel.abort()

    def _tell_refusal(self, machine_uuid: str, error: libvirt.libvirtError) -> None:
        """Warn once for each machine: it is tried again at every listing, and without it a member is not seen ready."""
        with self._lock:
            level = logging.DEBUG if machine_uuid in self._refused else logging.WARNING
            self._refused.setdefault(machine_uuid, time.monotonic())
        _log.log(level, "the progress channel of machine %s cannot be read: %s", machine_uuid, describe(error))

    def _received(self, machine_uuid: str, report: GuestReport) -> None:
        with self._lock:
            before = self._reports.get(machine_uuid)
            report = replace(report, longest_pause=self._longest_pause(machine_uuid, before, report))
            self._reports[machine_uuid] = report
        # A guest repeats itself every few seconds; only what is new is news.
        known = before and replace(
            before,
            received_at=report.received_at,
            count=report.count,
            answered=report.answered,
            longest_pause=report.longest_pause,
        )
        if known != report:
            self._on_report(machine_uuid)

    def _longest_pause(self, machine_uuid: str, before: GuestReport | None, report: GuestReport) -> float:
        """Of this run, as far as nothing of it was missed. Before it counts its looks a guest speaks as it comes on."""
        channel = self._channels.get(machine_uuid)
        if before is None or before.count <= 0:
            return 0.0
        heard = channel is not None and before.received_at >= channel.since
        pause = report.received_at - before.received_at if heard else 0.0
        return max(pause, before.longest_pause * PAUSES_FADE)

    def forget(self, machine_uuid: str) -> None:
        """Stops listening to the machine and drops what it said: it is another run of the guest from now on."""
        self.hang_up(machine_uuid)
        with self._lock:
            self._reports.pop(machine_uuid, None)
            self._refused.pop(machine_uuid, None)
            self._reset_at.pop(machine_uuid, None)
            self._ending.discard(machine_uuid)

    def keep_only(self, machine_uuids: set[str]) -> None:
        """Drops everything of machines that are not there any more."""
        with self._lock:
            known = self._channels.keys() | self._reports.keys() | self._refused.keys() | self._reset_at.keys()
            gone = (known | self._ending) - machine_uuids
        for machine_uuid in gone:
            self.forget(machine_uuid)

    def connection_lost(self) -> None:
        """The connection that carried the channels is gone. The reports stay: they were true when they came."""
        with self._lock:
            channels = list(self._channels.values())
            self._channels.clear()
        for channel in channels:
            channel.drop()
