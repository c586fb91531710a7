"""What holds a group's machines on a host is the same whichever gang's machine is made there: a host may have both."""

from __future__ import annotations

from service.domain.isolation import isolation_of
from service.domain.updates import UpdateStage
from service.lifecycle.effects import effects
from service.lifecycle.transitions import advance
from service.lifecycle.updating import gang_of, gangs
from tests.service.lifecycle.test_endpoint import helped, perfectly, running
from tests.service.lifecycle.test_updating import wanted
from tests.support.builders import zone


def test_a_machine_of_one_gang_does_not_shut_the_other_out() -> None:
    place = zone()
    subject = running()
    subject = advance(subject, wanted(subject), 1)
    seen = 0
    for now in range(2, 60):
        for effect in effects(subject, now):
            subject = perfectly(subject, effect, now)
            there = [m for m in subject.instances if m.address]
            if subject.update is None or subject.update.stage is not UpdateStage.COMING or len(there) < 4:
                continue
            whole = isolation_of(subject, place, {place.uuid: place})
            assert whole is not None
            assert len(gangs(subject)) == 2
            for member in subject.instances:
                assert isolation_of(gang_of(subject, member.uuid), place, {place.uuid: place}) == whole
                seen += 1
    assert seen > 0
    assert helped(subject).others == (), "a whole group has no other gang's members"
