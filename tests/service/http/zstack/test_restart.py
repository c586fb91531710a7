"""Jobs and sessions over the end of the process: an orderly one, and one without warning in the middle of a deploy."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from tests.support.process import ServiceProcess

from .lab import PASSWORD_SHA512, action, configuration, lab, node


@pytest.mark.asyncio
async def test_a_job_and_its_session_outlive_an_orderly_restart(tmp_path: Path) -> None:
    async with lab(tmp_path, database="corral.db") as first:
        done = await first.ended(await first.deploy(name="one"))
        session = first.session
    async with lab(tmp_path, database="corral.db") as second:
        job = done.url.path.rpartition("/")[2]
        again = await second.http.get(f"/zstack/v1/api-jobs/{job}")
        assert (again.status_code, again.json()) == (200, done.json())
        found = await second.get("/ai/model-services/instances/groups", session=session, q="name=one")
        assert len(found.json()["inventories"]) == 1


@pytest.mark.asyncio
async def test_a_job_that_an_orderly_stop_interrupts_ends_right_afterwards(tmp_path: Path) -> None:
    async with lab(tmp_path, database="corral.db", boot_ms=3000) as first:
        accepted = await first.deploy()
    job = accepted.json()["location"].rpartition("/")[2]
    async with lab(tmp_path, database="corral.db") as second:
        answer = await second.ended(accepted, f"/zstack/v1/api-jobs/{job}")
        assert answer.json()["inventory"]["status"] == "Running"
        listed = await second.get("/ai/model-services/instances/groups", replyWithCount="true")
        assert listed.json()["total"] == 1


def polled(http: httpx.Client, job: str) -> httpx.Response:
    """The answer of a job when it is no longer 202."""
    patience = time.monotonic() + 60
    while (answer := http.get(f"/zstack/v1/api-jobs/{job}")).status_code == 202:
        assert time.monotonic() < patience
        time.sleep(0.05)
    return answer


def test_after_a_kill_every_accepted_job_ends_and_no_group_is_made_twice(tmp_path: Path) -> None:
    config = tmp_path / "corral.toml"
    config.write_text(configuration(tmp_path, database="corral.db", boot_ms=1500))
    with ServiceProcess(config) as first, httpx.Client(base_url=first.http, trust_env=False, timeout=60) as http:
        login = {"logInByAccount": {"accountName": "admin", "password": PASSWORD_SHA512}}
        session = http.put("/zstack/v1/accounts/login", json=login).json()["inventory"]["uuid"]
        who = {"Authorization": f"OAuth {session}"}

        def deploy(name: str, strategy: str = "parallel") -> str:
            wanted = action(name=name, serviceCreationStrategy=strategy, modelServices=[node(cpuNum=1)])
            body = {"deployDistributedModelService": wanted}
            accepted = http.put("/zstack/v1/ai/model-services", json=body, headers=who)
            return str(accepted.json()["location"].rpartition("/")[2])

        jobs = [deploy(f"g{number}") for number in range(6)]
        refused = deploy("refused", "x")
        first.kill()
    with ServiceProcess(config) as second, httpx.Client(base_url=second.http, trust_env=False, timeout=60) as http:
        for job in jobs:
            assert polled(http, job).json()["inventory"]["status"] == "Running"
        answer = polled(http, refused)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "SYS.1007")
        groups = http.get("/zstack/v1/ai/model-services/instances/groups", headers=who)
        assert sorted(group["name"] for group in groups.json()["inventories"]) == [f"g{n}" for n in range(6)]
