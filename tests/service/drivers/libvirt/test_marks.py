"""The owner's mark on a libvirt host: left, read, and taken away by its owner alone."""

from __future__ import annotations

from dataclasses import replace

from service.domain.ownership import OwnerMark
from service.drivers.libvirt import marks
from service.drivers.libvirt.connection import Work
from tests.service.drivers.libvirt.fake import FakeHost

MINE = OwnerMark("a" * 32, "1" * 32, 7)


def test_a_mark_goes_with_its_owner_and_host_and_no_other_does() -> None:
    connection = FakeHost().open("")
    work = Work(5.0)
    marks.clear(connection, work, MINE)  # absent is success
    assert marks.leave(connection, work, MINE, "qemu", take_over=False) == MINE
    for other in (replace(MINE, database="b" * 32), replace(MINE, host="2" * 32)):
        marks.clear(connection, work, other)
        assert marks.read(connection) == MINE
    marks.clear(connection, work, replace(MINE, generation=0))
    assert marks.read(connection) is None
