"""The guest agent over libvirt: an answer, no answer, and not knowing."""

from __future__ import annotations

import libvirt
import libvirt_qemu
import pytest

from service.drivers.base import HostRejected, OutcomeUnknown
from tests.service.drivers.libvirt.fake import FakeHost, error, lost
from tests.service.drivers.libvirt.machines import BUDGET, driver_of, specification

pytestmark = pytest.mark.asyncio


async def test_whether_a_guest_agent_answers_is_told_apart_from_not_knowing(monkeypatch: pytest.MonkeyPatch) -> None:
    host, spec = FakeHost(), specification(asked_for="agent")
    driver, said = driver_of(host), [error(libvirt.VIR_ERR_AGENT_UNRESPONSIVE)]

    def ping(_domain: object, command: str, seconds: int, _flags: int) -> str:
        assert (command, seconds) == ('{"execute":"guest-ping"}', BUDGET // 2)
        if said:
            raise said.pop()
        return '{"return":{}}'

    monkeypatch.setattr(libvirt_qemu, "qemuAgentCommand", ping)

    async def answers() -> bool:
        return await driver.agent_answers(spec.identity, budget_seconds=BUDGET)

    with pytest.raises(HostRejected, match="no running machine"):
        await answers()
    await driver.create_paused(spec, budget_seconds=BUDGET)
    with pytest.raises(HostRejected, match="no running machine"):
        await answers()
    await driver.resume(spec.identity, budget_seconds=BUDGET)
    assert not await answers()
    assert await answers()
    said.append(error(libvirt.VIR_ERR_AGENT_UNSYNCED))
    assert not await answers()
    said.append(error(libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED))
    with pytest.raises(HostRejected, match="no guest agent's channel") as refusal:
        await answers()
    assert refusal.value.code == "unsupported"
    said.append(lost())
    with pytest.raises(OutcomeUnknown):
        await answers()
    await driver.close()
