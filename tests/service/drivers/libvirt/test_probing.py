"""What a probe guest proves of KVM: that it is gone is not that it has ended well."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import libvirt
import pytest

from service.drivers.base import OutcomeUnknown
from service.drivers.libvirt import probing
from service.drivers.libvirt.connection import Work
from service.drivers.libvirt.domain_xml import Platform
from tests.service.drivers.libvirt.fake import error, lost


class Volume:
    deleted = 0

    def path(self) -> str:
        return "/pool/probe"

    def delete(self, _flags: int) -> None:
        self.deleted += 1


class Hypervisor:
    """Runs probe guests, of which each is told to end in its way: by a detail of libvirt's event, None: in silence."""

    def __init__(self, *details: int | None, refuses: Callable[[], libvirt.libvirtError] | None = None) -> None:
        self.details = list(details)
        self.refuses = refuses
        self.volume = Volume()
        self.listeners: dict[int, Callable[..., None]] = {}
        self.machine_uuid = ""

    def scratch(self, *_: Any) -> Volume:
        return self.volume

    def domainEventRegisterAny(self, _domain: Any, _event: int, callback: Callable[..., None], _opaque: Any) -> int:  # noqa: N802
        self.listeners[len(self.listeners)] = callback
        return len(self.listeners) - 1

    def domainEventDeregisterAny(self, callback: int) -> None:  # noqa: N802
        del self.listeners[callback]

    def createXML(self, xml: str, _flags: int) -> Hypervisor:  # noqa: N802
        if self.refuses is not None:
            raise self.refuses()
        self.machine_uuid = ElementTree.fromstring(xml).findtext("uuid", "")
        detail = self.details.pop(0)
        if detail is not None:
            for listener in self.listeners.values():
                listener(self, self, libvirt.VIR_DOMAIN_EVENT_STOPPED, detail, None)
        return self

    def UUIDString(self) -> str:  # noqa: N802
        return self.machine_uuid

    def destroy(self) -> None:
        raise error(libvirt.VIR_ERR_NO_DOMAIN)

    def runs_guests(self) -> bool:
        return probing.runs_guests(self, Work(60), Platform("kvm", "x86_64"), "c", self)  # type: ignore[arg-type]


SHUTDOWN, DESTROYED = libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN, libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED
FAILED, CRASHED = libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED, libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "PROBE_SECONDS", 0.2)


@pytest.mark.parametrize(
    ("details", "runs"),
    [((SHUTDOWN,), True), ((DESTROYED, SHUTDOWN), True), ((FAILED, SHUTDOWN), True), ((CRASHED, FAILED), False)],
)
def test_a_guest_that_ended_by_itself_has_run_and_one_whose_process_failed_again_has_not(
    details: tuple[int, ...], runs: bool
) -> None:
    there = Hypervisor(*details)
    assert there.runs_guests() is runs
    assert (there.details, there.listeners, there.volume.deleted) == ([], {}, len(details))


@pytest.mark.parametrize("details", [(DESTROYED, DESTROYED), (None, None), (FAILED, None)])
def test_one_that_is_gone_and_nobody_knows_why_proves_nothing(details: tuple[int | None, ...]) -> None:
    with pytest.raises(OutcomeUnknown):
        Hypervisor(*details).runs_guests()


def test_what_could_not_be_created_for_want_of_something_else_proves_nothing() -> None:
    def denied() -> libvirt.libvirtError:
        return error(libvirt.VIR_ERR_INTERNAL_ERROR, text="Could not access KVM kernel module: Permission denied")

    assert Hypervisor(refuses=denied).runs_guests() is False
    for why in (lambda: error(libvirt.VIR_ERR_NO_MEMORY), lost):
        with pytest.raises(libvirt.libvirtError):
            Hypervisor(refuses=why).runs_guests()
