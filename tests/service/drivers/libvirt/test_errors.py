"""libvirt's errors in our words, and never in libvirt's."""

from __future__ import annotations

import errno

import libvirt
import pytest

from service.drivers.base import DriverError, HostRejected, HostUnreachable, OutcomeUnknown
from service.drivers.libvirt.errors import connection_lost, translate, translate_open
from tests.service.drivers.libvirt.fake import error, lost

SECRET = "/etc/shadow: root:x"


@pytest.mark.parametrize(
    ("code", "number", "expected"),
    [
        (libvirt.VIR_ERR_SYSTEM_ERROR, errno.ENODEV, "missing_network"),
        (libvirt.VIR_ERR_SYSTEM_ERROR, errno.ENOENT, "missing_image"),
        (libvirt.VIR_ERR_SYSTEM_ERROR, errno.ENOMEM, "no_memory"),
        (libvirt.VIR_ERR_SYSTEM_ERROR, errno.ENOSPC, "no_space"),
        (libvirt.VIR_ERR_SYSTEM_ERROR, errno.EIO, "internal"),
        (libvirt.VIR_ERR_NO_NETWORK, 0, "missing_network"),
        (libvirt.VIR_ERR_NO_STORAGE_POOL, 0, "missing_image"),
        (libvirt.VIR_ERR_NO_STORAGE_VOL, 0, "missing_image"),
        (libvirt.VIR_ERR_CONFIG_UNSUPPORTED, 0, "unsupported"),
        (libvirt.VIR_ERR_NO_SUPPORT, 0, "unsupported"),
        (libvirt.VIR_ERR_XML_ERROR, 0, "bad_request"),
        (libvirt.VIR_ERR_XML_DETAIL, 0, "bad_request"),
        (libvirt.VIR_ERR_NO_MEMORY, 0, "no_memory"),
        (libvirt.VIR_ERR_ACCESS_DENIED, 0, "denied"),
        (libvirt.VIR_ERR_INTERNAL_ERROR, 0, "internal"),
        (libvirt.VIR_ERR_OPERATION_FAILED, 0, "internal"),
        (10_000, 0, "internal"),
    ],
)
def test_an_answer_of_the_host_is_a_rejection(code: int, number: int, expected: str) -> None:
    found = translate(error(code, text=SECRET, number=number), has_effect=True)
    assert isinstance(found, HostRejected)
    assert found.code == expected


def test_memory_and_space_that_programs_could_not_get_are_known_by_their_words() -> None:
    found = translate(error(libvirt.VIR_ERR_INTERNAL_ERROR, text="pc.ram: Cannot allocate memory"), has_effect=True)
    assert isinstance(found, HostRejected)
    assert found.code == "no_memory"
    text = "Child process (qemu-img create) unexpected exit status 1: Could not write: No space left on device"
    full = translate(error(libvirt.VIR_ERR_INTERNAL_ERROR, text=text), has_effect=True)
    assert isinstance(full, HostRejected)
    assert full.code == "no_space"


@pytest.mark.parametrize(
    ("code", "domain", "text", "told"),
    [
        (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_NETWORK, "cannot add tap", "network could not take"),
        (libvirt.VIR_ERR_OPERATION_FAILED, libvirt.VIR_FROM_STORAGE, "broken", "storage failed"),
        (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_SECURITY, "apparmor", "security rules"),
        (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_CGROUP, "no controller", "resource control"),
        (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_FROM_QEMU, "odd", "virtualisation software"),
        (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_QEMU, "x: Permission denied", "does not allow the use"),
        (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_QEMU, "Could not access KVM kernel module", "with KVM"),
        (10_000, libvirt.VIR_FROM_NONE, "odd", "no class here"),
    ],
)
def test_every_rejection_has_a_class_of_cause(code: int, domain: int, text: str, told: str) -> None:
    found = translate(error(code, domain, f"{text} {SECRET}"), has_effect=True)
    assert told in found.public
    assert SECRET not in found.public
    assert text in found.detail


@pytest.mark.parametrize(
    "broken",
    [
        lost(),
        error(libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_RPC),
        error(libvirt.VIR_ERR_RPC, libvirt.VIR_FROM_RPC),
        error(libvirt.VIR_ERR_INVALID_CONN, libvirt.VIR_FROM_NONE),
    ],
)
def test_a_broken_connection_leaves_the_outcome_open_only_where_there_could_be_one(
    broken: libvirt.libvirtError,
) -> None:
    assert connection_lost(broken)
    assert isinstance(translate(broken, has_effect=True), OutcomeUnknown)
    assert isinstance(translate(broken, has_effect=False), HostUnreachable)


def test_what_libvirt_did_not_finish_is_unknown() -> None:
    assert isinstance(translate(error(libvirt.VIR_ERR_OPERATION_TIMEOUT), has_effect=True), OutcomeUnknown)


@pytest.mark.parametrize("code", range(110))
def test_libvirts_text_is_for_logs_alone(code: int) -> None:
    for domain in (libvirt.VIR_FROM_QEMU, libvirt.VIR_FROM_RPC):
        for has_effect in (True, False):
            found: DriverError = translate(error(code, domain, SECRET), has_effect=has_effect)
            assert SECRET not in found.public
            assert SECRET not in str(found)
            assert SECRET in found.detail


def test_a_connection_that_can_not_be_opened_had_no_effect() -> None:
    assert isinstance(translate_open(lost()), HostUnreachable)
    assert isinstance(translate_open(error(libvirt.VIR_ERR_AUTH_FAILED)), HostUnreachable)
