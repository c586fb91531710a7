"""One BMC, synchronously: what it shows, and acts that are believed when they are seen. Runs on a thread of its own.

`sushy` retries a request that got no answer, and logs in anew where a session was lost. Both are kept to what does no
harm: a request is sent once, within the deadline of the call that it is part of.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import requests
import sushy
from sushy import auth, exceptions
from sushy.resources.system.system import System

from service.drivers.base import DriverError, HostRejected, HostUnreachable, OutcomeUnknown
from service.drivers.power import WrongMachine
from service.drivers.redfish.addressing import Access
from service.drivers.redfish.connecting import CONNECT_SECONDS, READ_SECONDS, Busy, Connector, Late, Pace, Pinned
from service.drivers.redfish.errors import told_of
from service.drivers.redfish.inventory import Inventory, read

logger = logging.getLogger(__name__)
logging.getLogger("sushy").setLevel(logging.CRITICAL)  # it quotes what is sent; what went wrong is told by our errors
Result = TypeVar("Result")
POLL_SECONDS = 0.5
OFF_TWICE_SECONDS = 2.0
"""A BMC says Off for a moment while it switches: two looks so far apart tell that it is."""
_DRIVES = frozenset({"Cd", "UsbCd"})
"""By which words BMCs tell that a machine starts from their virtual drive."""
INVENTORY_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Look:
    """What a BMC shows at one moment. `power`: Redfish's word. `image`: the address of what is in its drive, empty
    where nothing is; `boot_id`: changes when the BMC restarts; `from_drive`: whether the machine starts from its drive.
    """

    power: str
    image: str
    boot_id: str
    from_drive: bool = False

    @property
    def off(self) -> bool:
        """Whether it is off; a machine on its way there is not."""
        return self.power == "Off"


class Bmc:
    """Connects at the first call, and again after what broke the connection."""

    def __init__(self, options: Access) -> None:
        """Raises HostRejected `bad_request` for one without a password."""
        if not options.password_file:
            raise HostRejected("bad_request", "a BMC is logged in to by a credential that names a password_file")
        self._options = options
        self._root: Any = None
        self._system: Any = None
        self._connector: Connector | None = None
        self._pace = Pace()
        self._drive: Any = None
        self._boot_id = ""
        self._session = ""
        self._heard = False  # the present call's order was taken by the BMC, or may have been
        self._inventory: tuple[float, Inventory] | None = None
        self.requests = 0

    def look(self, deadline: float) -> Look:
        """What it shows now: two requests. Raises DriverError."""
        return self._guarded(deadline, self._look, acts=False)

    def inventory(self, deadline: float) -> Inventory:
        """What the machine is; asked of the BMC every five minutes. Raises DriverError."""
        known = self._inventory
        if known is not None and time.monotonic() < known[0] + INVENTORY_SECONDS:
            return known[1]

        def work() -> Inventory:
            found = read(self._opened())
            if known is not None:
                found = found.completed(known[1])
            self._inventory = (time.monotonic(), found)
            return found

        return self._guarded(deadline, work, acts=False)

    def insert(self, deadline: float, url: str) -> None:
        """Put this into the drive, whatever was there; read back before it is believed.

        Raises DriverError.
        """

        def work() -> None:
            drive = self._empty()
            self._act(lambda: drive.insert_media(url), lambda: self._image() == url)
            if self._image() != url:
                raise HostRejected("bad_request", "the BMC did not take what the machine is to boot from")

        self._guarded(deadline, work, acts=True)

    def eject(self, deadline: float) -> None:
        """Empty the drive. Raises DriverError."""
        self._guarded(deadline, self._empty, acts=True)

    def boot_from_drive(self, deadline: float) -> None:
        """Have the machine start from its drive each time that it starts; read back before it is believed. Nothing is
        sent where it is so. Raises DriverError."""

        def work() -> None:
            system = self._opened()
            if _starts_from_drive(system):
                return
            always = sushy.BOOT_SOURCE_ENABLED_CONTINUOUS
            self._act(
                lambda: system.set_system_boot_options(target=sushy.BOOT_SOURCE_TARGET_CD, enabled=always),
                lambda: _starts_from_drive(self._opened()),
            )
            if not _starts_from_drive(self._opened()):
                raise HostRejected("unsupported", "the BMC does not have the machine start from its drive")

        self._guarded(deadline, work, acts=True)

    def boot_as_set(self, deadline: float) -> None:
        """Have the machine start as its firmware is set. One that goes on to try its drive, which is empty then, starts
        so as well: a BMC that refuses is told about, and no error. Raises DriverError."""

        def work() -> None:
            system = self._opened()
            if not _starts_from_drive(system):
                return
            allowed = set(system.get_allowed_system_boot_source_values())
            target = next(
                (one for one in (sushy.BOOT_SOURCE_TARGET_NONE, sushy.BOOT_SOURCE_TARGET_HDD) if one in allowed), None
            )
            try:
                system.set_system_boot_options(target=target, enabled=sushy.BOOT_SOURCE_ENABLED_DISABLED)
            except exceptions.HTTPError as error:
                if isinstance(error, exceptions.AccessError):
                    raise
                logger.warning("the BMC of %s goes on to try its drive first: %s", self._options.url, error)
            self._heard = True

        self._guarded(deadline, work, acts=True)

    def power_on(self, deadline: float) -> None:
        """Switch it on and see it on. Raises DriverError."""

        def work() -> None:
            self._reset("On", lambda power: power in ("On", "PoweringOn"), deadline)

        self._guarded(deadline, work, acts=True)

    def ask_to_stop(self, deadline: float) -> None:
        """Ask the machine's system to stop; does nothing where the BMC cannot. Raises DriverError."""

        def work() -> None:
            system = self._opened()
            allowed = {value.value for value in system.get_allowed_reset_system_values()}
            if "GracefulShutdown" in allowed and _power_in(system) == "On":
                self._act(lambda: system.reset_system(sushy.RESET_GRACEFUL_SHUTDOWN), lambda: True)

        self._guarded(deadline, work, acts=True)

    def power_off(self, deadline: float) -> None:
        """Cut its power and see it off twice. Off already is success. Raises DriverError."""

        def work() -> None:
            if self._power() != "Off":
                self._reset("ForceOff", lambda power: power == "Off", deadline)
            while True:
                time.sleep(OFF_TWICE_SECONDS)
                if self._power() == "Off":
                    return
                self._until(lambda power: power == "Off", deadline)

        self._guarded(deadline, work, acts=True)

    def power_of(self, deadline: float, machine: str) -> str:
        """Redfish's word for the power of this machine, by its uuid. Raises DriverError, WrongMachine."""
        return self._guarded(deadline, lambda: self._power_of(machine), acts=False)

    def force_off(self, deadline: float, machine: str) -> None:
        """Cut the power of this very machine, by its uuid; nothing is sent where it is off. Raises DriverError,
        WrongMachine: then nothing was sent."""

        def work() -> None:
            if self._power_of(machine) != "Off":
                self._reset("ForceOff", lambda power: power == "Off", deadline)

        self._guarded(deadline, work, acts=True)

    def stays_off(self, deadline: float, machine: str, apart_seconds: float) -> bool:
        """Whether this machine is seen off twice, so far apart, in one session: a BMC that has just started may not
        know yet. Raises DriverError, WrongMachine."""

        def work() -> bool:
            if self._power_of(machine) != "Off":
                return False
            session = self._session_key()
            time.sleep(apart_seconds)
            return self._power_of(machine) == "Off" and self._session_key() == session

        return self._guarded(deadline, work, acts=False)

    def close(self) -> None:
        """End the session, so that it does not count among those that a BMC has few of."""
        if self._connector is None:
            return
        self._connector.deadline = time.monotonic() + READ_SECONDS
        self._end(self._connector._auth)
        self._forget()

    # --- inside ------------------------------------------------------------------------------------------------------

    def _guarded(self, deadline: float, work: Callable[[], Result], *, acts: bool) -> Result:
        self._heard = False
        try:
            self._open(deadline)
            return work()
        except DriverError:
            raise
        except Busy as error:
            busy = OutcomeUnknown if self._heard else HostUnreachable
            raise busy("the BMC is busy") from error
        except Late as error:
            lost = OutcomeUnknown if acts else HostUnreachable
            raise lost("the BMC did not answer in time") from error
        except (exceptions.SushyError, requests.RequestException) as error:
            if isinstance(error, exceptions.AccessError):
                self._forget()  # the file may have another password by now
            told = told_of(error, acts=acts)
            # What went wrong after the BMC had heard an order says nothing of what became of that.
            raise (OutcomeUnknown(told.public, told.detail) if self._heard else told) from error

    def _open(self, deadline: float) -> None:
        if self._connector is not None:
            self._connector.deadline = deadline
            return
        options = self._options
        session = auth.SessionAuth(options.username, options.password())  # never Basic: it would be sent each time
        verify: str | bool = options.ca_file or not options.fingerprint
        self._connector = made = Connector(
            options.url, verify=verify, server_side_retries=1, server_side_retries_delay=1,
            default_request_timeout=READ_SECONDS, connect_timeout=CONNECT_SECONDS,
        )  # fmt: skip
        made.deadline, made.sends, made.pace = deadline, self._sent, self._pace
        made._session.hooks["response"].append(self._pace.hear)
        if options.fingerprint:
            made._session.mount("https://", Pinned(options.fingerprint))
        try:
            self._root = sushy.Sushy(options.url, auth=session, connector=made)
            self._system = self._chosen()
        except BaseException:
            self._end(session)
            self._forget()
            raise

    def _end(self, session: Any) -> None:
        try:
            session.close()
        except (exceptions.SushyError, requests.RequestException, Late) as error:
            logger.info("a session of %s ends by itself after a while: %s", self._options.url, error)

    def _chosen(self) -> Any:
        systems = self._root.get_system_collection()
        paths = sorted(systems.members_identities)
        if self._options.system:
            paths = [path for path in paths if path.rstrip("/").rsplit("/", 1)[-1] == self._options.system]
        if len(paths) != 1:
            raise HostRejected(
                "bad_request", f"option 'system' must name one of its systems: {len(paths)} are meant as it is"
            )
        return self._root.get_system(paths[0])

    def _sent(self) -> None:
        self.requests += 1

    def _forget(self) -> None:
        if self._connector is not None:
            self._connector._session.close()
        if self._root is not None:
            self._root._auth = None  # or it would call the BMC when it is collected, from whichever thread that is in
        self._root = self._system = self._connector = self._drive = None

    def _opened(self) -> System:
        return _fresh(self._system)

    def _power(self) -> str:
        return _power_in(self._opened())

    def _power_of(self, machine: str) -> str:
        """The power and the uuid of one and the same answer."""
        system = self._opened()
        told = str(system.json.get("UUID") or "")
        if not told or told.replace("-", "").lower() != machine.replace("-", "").lower():
            raise WrongMachine(f"the BMC is of another machine: {told or 'it tells no uuid'}, and not {machine}")
        return _power_in(system)

    def _session_key(self) -> str:
        return str(self._connector._auth.get_session_key()) if self._connector is not None else ""

    def _look(self) -> Look:
        system = self._opened()
        return Look(_power_in(system), self._image(), self._boot(), _starts_from_drive(system))

    def _boot(self) -> str:
        """Which start of the BMC this is: asked at each new session, since a start ends all sessions."""
        session = self._session_key()
        if not self._boot_id or session != self._session:
            manager = _fresh(self._system.managers[0])
            told = manager.json
            self._boot_id = f"{told.get('UUID') or manager.identity} {told.get('LastResetTime', '')}".strip()
            self._session = session
        return self._boot_id

    def _drive_now(self) -> Any:
        if self._drive is None:
            try:
                found = self._system.virtual_media.get_members()
            except exceptions.SushyError:
                found = self._system.managers[0].virtual_media.get_members()
            fit = [one for one in found if {kind.value for kind in one.media_types} & {"CD", "DVD"}]
            if not fit:
                raise HostRejected("unsupported", "the BMC has no drive for images")
            self._drive = fit[0]
        return _fresh(self._drive)

    def _image(self) -> str:
        drive = self._drive_now()
        return str(drive.image or "") if drive.inserted else ""

    def _empty(self) -> Any:
        """The drive, as it was read once nothing was in it."""
        drive = self._drive_now()
        if drive.inserted:
            self._act(drive.eject_media, lambda: not self._image())
            if self._image():
                raise OutcomeUnknown("the BMC does not let go of what is in its drive")
        return self._drive

    def _reset(self, how: str, reached: Callable[[str], bool], deadline: float) -> None:
        system = self._system  # which resets there are does not change
        value = next((v for v in system.get_allowed_reset_system_values() if v.value == how), None)
        if value is None:
            raise HostRejected("unsupported", f"the BMC knows no {how}")
        self._act(lambda: system.reset_system(value), lambda: reached(self._power()))
        self._until(reached, deadline)

    def _until(self, reached: Callable[[str], bool], deadline: float) -> None:
        while not reached(self._power()):
            if time.monotonic() + POLL_SECONDS >= deadline:
                raise OutcomeUnknown("the machine's power did not change in time")
            time.sleep(POLL_SECONDS)

    def _act(self, act: Callable[[], Any], done: Callable[[], bool]) -> None:
        """Send it once. An error that came after it was done is none: a BMC may say 500, or that it was so already."""
        try:
            act()
        except exceptions.HTTPError as error:
            if isinstance(error, exceptions.AccessError):
                raise
            self._heard = True
            if not done():
                self._heard = False
                raise
        self._heard = True


def _starts_from_drive(system: System) -> bool:
    """A BMC may say Once for what it was told for ever, and the other way round."""
    boot = system.json.get("Boot") or {}
    told = boot.get("BootSourceOverrideEnabled", "Disabled") != "Disabled"
    return told and boot.get("BootSourceOverrideTarget") in _DRIVES


def _power_in(system: System) -> str:
    if (state := system.power_state) is None:
        raise OutcomeUnknown("the BMC does not tell whether the machine is on")
    return str(state.value)


def _fresh(resource: Any) -> Any:
    """The resource read anew. (With `force` sushy would read all that hangs on it as well.)"""
    resource.invalidate()
    resource.refresh(force=False)
    return resource
