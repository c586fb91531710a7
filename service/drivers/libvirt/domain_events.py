"""What libvirt tells by itself of a host's domains and devices, as hints on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import libvirt

from service.drivers.base import MachineHint, MachineIdentity
from service.drivers.libvirt.inventory import Inventory
from service.drivers.libvirt.nodedev import NodeDevices


class DomainEvents:
    """Carries lifecycle events, which come on libvirt's own thread, to the hints of one host."""

    def __init__(
        self,
        host_id: str,
        inventory: Inventory,
        was_reset: Callable[[str], None],
        devices: NodeDevices,
    ) -> None:
        """`was_reset(machine_uuid)`: called before the hint, on libvirt's thread."""
        self._was_reset, self._devices = was_reset, devices
        self._host_id = host_id
        self._inventory = inventory
        self._hints: list[MachineHint] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def subscribe(self, hint: MachineHint) -> None:
        """Call the hint on every change from now on."""
        self._hints.append(hint)

    def unsubscribe_all(self) -> None:
        """Call no hint any more."""
        self._hints.clear()

    def begin(self) -> None:
        """Hints are called on the event loop that runs now."""
        self._loop = asyncio.get_running_loop()

    def listen(self, connection: Any) -> Callable[[], None]:
        """Hear the events of a new connection, in its opening thread; what is returned ends that."""
        self._inventory.forget_all()
        try:
            callbacks = [
                connection.domainEventRegisterAny(None, kind, happened, None)
                for kind, happened in (
                    (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle_event),
                    (libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, self._reboot_event),
                )
            ]
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
                raise
            return lambda: None

        devices = self._listen_to_devices(connection)

        def release() -> None:
            for callback in callbacks:
                with contextlib.suppress(libvirt.libvirtError):
                    connection.domainEventDeregisterAny(callback)
            if devices is not None:
                with contextlib.suppress(libvirt.libvirtError):
                    connection.nodeDeviceEventDeregisterAny(devices)

        self._tell(None)
        return release

    def _listen_to_devices(self, connection: Any) -> int | None:
        """None of a libvirt that tells nothing of them; what changes is then seen at the next look."""
        try:
            return int(
                connection.nodeDeviceEventRegisterAny(
                    None, libvirt.VIR_NODE_DEVICE_EVENT_ID_LIFECYCLE, self._device_event, None
                )
            )
        except libvirt.libvirtError as error:
            if error.get_error_code() not in (libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_NO_CONNECT):
                raise
            return None

    def changed(self, machine_uuid: str) -> None:
        """Something changed with a machine. From any thread."""
        self._tell(self._inventory.identity_of(machine_uuid))

    def all_changed(self) -> None:
        """Anything may have changed on the host. On the event loop."""
        self._give(None)

    def _lifecycle_event(self, _connection: Any, domain: Any, event: int, _detail: int, _opaque: Any) -> None:
        machine_uuid = domain.UUIDString()
        identity = self._inventory.identity_of(machine_uuid)
        if event in (libvirt.VIR_DOMAIN_EVENT_DEFINED, libvirt.VIR_DOMAIN_EVENT_UNDEFINED):
            self._inventory.forget(machine_uuid)
        self._tell(identity)

    def _reboot_event(self, _connection: Any, domain: Any, _opaque: Any) -> None:
        """Every replica hears it, whoever reads what the guest says."""
        self._was_reset(domain.UUIDString())
        self.changed(domain.UUIDString())

    def _device_event(self, _connection: Any, device: Any, _event: int, _detail: int, _opaque: Any) -> None:
        if self._devices.changed(device.name()):
            self._tell(None)

    def _tell(self, identity: MachineIdentity | None) -> None:
        """From any thread to the event loop."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended; nobody listens
                self._loop.call_soon_threadsafe(self._give, identity)

    def _give(self, identity: MachineIdentity | None) -> None:
        for hint in self._hints:
            hint(self._host_id, identity)
