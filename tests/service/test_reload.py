"""SIGHUP: the running process reads its file again, and never ends of it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import grpc
import httpx
import pytest
import structlog
from corral.v1 import deploy_pb2, group_pb2

from service.reload import reload
from tests.service.rpc.lab import reason_of
from tests.support.process import CONFIGURATION, ServiceProcess
from tests.support.whole import ENTRY, GIB, Whole, config_text, whole

HEAD = """
[server]
grpc = "127.0.0.1:0"
http = "127.0.0.1:0"
[store]
url = "sqlite:///corral.db"
[log]
format = "json"
level = "{level}"
[identity]
anonymous = false
"""


def token(secret: str) -> str:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return f'[[tokens]]\nname = "ci"\nproject = "p"\nrole = "admin"\nsha256 = "{digest}"\n'


def answer(service: ServiceProcess, secret: str) -> int:
    headers = {"authorization": f"Bearer {secret}"}
    return httpx.get(f"{service.http}/corral/v1/instance-groups", headers=headers, timeout=30).status_code


def told(service: ServiceProcess, event: str) -> list[dict[str, object]]:
    written = [line for line in service.log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    lines = [json.loads(line) for line in written if line.startswith("{")]
    return [line for line in lines if event in str(line.get("event"))]


def soon(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_hangup_takes_over_who_may_call_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "corral.toml"
    (tmp_path / "none").touch()
    fleet = CONFIGURATION.replace("/boot/none", str(tmp_path / "none"))
    file.write_text(HEAD.format(level="info") + fleet + token("old"))
    with ServiceProcess(file) as service:
        assert (answer(service, "old"), answer(service, "new")) == (200, 401)
        text = HEAD.format(level="debug") + fleet.replace('cpu = "8"', 'cpu = "9"') + token("new")
        file.write_text(text + '[[quotas]]\nproject = "p"\ncpu = 1\n')
        os.kill(service.pid, signal.SIGHUP)
        soon(lambda: bool(told(service, "was read again")))
        assert (answer(service, "old"), answer(service, "new")) == (401, 200)
        assert told(service, "was read again")[0]["at_the_next_start"] == ["hosts"]
        file.write_text("no configuration")
        os.kill(service.pid, signal.SIGHUP)
        soon(lambda: bool(told(service, "cannot be used")))
        assert answer(service, "new") == 200


PASSWORD = hashlib.sha512(b"secret").hexdigest()
NOBODY = '[identity]\nanonymous = "nobody"\n'


def account(name: str) -> str:
    return f'[[accounts]]\nname = "{name}"\npassword_sha512 = "{PASSWORD}"\nrole = "admin"\nproject = "default"\n'


def access_key(identity: str) -> str:
    return (
        f'[[access_keys]]\nname = "pipeline"\nid = "{identity}"\nsecret = "0123456789abcdef0123"\n'
        'role = "admin"\nproject = "default"\n'
    )


def signed(identity: str) -> dict[str, str]:
    date = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S UTC")
    text = f"GET\n{date}\n/v1/zones"
    signature = base64.b64encode(hmac.new(b"0123456789abcdef0123", text.encode(), hashlib.sha1).digest()).decode()
    return {"Authorization": f"ZStack {identity}:{signature}", "Date": date}


async def read_again(lab: Whole, directory: Path, extra: str) -> None:
    file = directory / "again.toml"
    file.write_text(config_text(1, cpu=8, extra=extra))
    await reload(lab.service, file)


@pytest.mark.asyncio
async def test_accounts_access_keys_and_who_needs_nothing_are_taken_over(tmp_path: Path) -> None:
    async with (
        whole(tmp_path, config_text(1, cpu=8, extra=account("old") + access_key("OLD000000001") + NOBODY)) as lab,
        httpx.AsyncClient(base_url=f"http://{lab.http_address}", trust_env=False, timeout=120) as http,
    ):

        async def login(name: str) -> httpx.Response:
            body = {"logInByAccount": {"accountName": name, "password": PASSWORD}}
            return await http.put("/zstack/v1/accounts/login", json=body)

        async def zones(**headers: str) -> int:
            return (await http.get("/v1/zones", headers=headers)).status_code

        session = {"Authorization": f"OAuth {(await login('old')).json()['inventory']['uuid']}"}
        assert [await zones(**one) for one in (session, signed("OLD000000001"))] == [200, 200]
        listing = "/corral/v1/instance-groups"
        assert (await http.get(listing)).status_code == 401
        await read_again(lab, tmp_path, account("new") + access_key("NEW000000001"))
        assert "inventory" not in (await login("old")).json()
        assert "inventory" in (await login("new")).json()
        assert await zones(**session) != 200, "who was logged in by the account that is gone is logged out"
        assert await zones(**signed("OLD000000001")) != 200
        assert await zones(**signed("NEW000000001")) == 200
        assert (await http.get(listing)).status_code == 200, "whoever calls from this machine, from now on"


@pytest.mark.asyncio
async def test_quotas_and_rates_are_taken_over_and_taken_back(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(1, cpu=8)) as lab:
        wish = deploy_pb2.ListInstanceGroupsRequest()
        nodes = [group_pb2.NodeSpec(uuid=ENTRY, cpu_num=2, memory_size=GIB)]

        async def deploy(name: str) -> str:
            request = deploy_pb2.DeployDistributedModelServiceRequest(
                name=name, service_creation_strategy="parallel", model_services=nodes
            )
            try:
                told = [e.event async for e in lab.deploy.DeployDistributedModelService(request)]
                return str(told[-1].final.status)
            except grpc.aio.AioRpcError as error:
                return reason_of(error)

        assert await deploy("before") == "Running"
        await read_again(lab, tmp_path, '[[quotas]]\nproject = "default"\ncpu = 3\n')
        assert await deploy("above") == "QUOTA_EXCEEDED"
        await read_again(lab, tmp_path, "")
        assert await deploy("after") == "Running"
        await read_again(lab, tmp_path, '[[rate_limits]]\nproject = "default"\ncalls_per_second = 0.01\nburst = 1\n')
        await lab.deploy.ListInstanceGroups(wish)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await lab.deploy.ListInstanceGroups(wish)
        assert reason_of(refused.value) == "RATE_LIMITED"
        await read_again(lab, tmp_path, "")
        for _ in range(3):
            await lab.deploy.ListInstanceGroups(wish)


@pytest.mark.asyncio
async def test_the_logs_level_is_taken_over_and_what_waits_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "level", root.level)  # as it was, whatever this test does
    async with whole(tmp_path, config_text(1, cpu=8)) as lab:
        for level, number in (("error", logging.ERROR), ("debug", logging.DEBUG)):
            await read_again(lab, tmp_path, f'[log]\nlevel = "{level}"\n')
            assert root.level == number
        with structlog.testing.capture_logs() as said:
            await read_again(lab, tmp_path, '[log]\nformat = "console"\n[overcommit]\nmemory = 1.5\n')
    (told,) = [line["at_the_next_start"] for line in said if "was read again" in line["event"]]
    assert told == ["log.format", "overcommit"]
