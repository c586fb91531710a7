"""Rate limits on the whole service: typed and with the time to wait on every face, and only for the tenant itself."""

from __future__ import annotations

import hashlib
from pathlib import Path

import grpc
import httpx
import pytest
from corral.v1 import deploy_pb2
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.config.file import ConfigError, parse
from service.domain.tenants import Rate
from tests.service.rpc.lab import detail, reason_of, status_of
from tests.support.whole import config_text, whole

PASSWORD = hashlib.sha512(b"secret").hexdigest()
TOKEN = hashlib.sha256(b"secret of bob").hexdigest()
# A third call would be let in after a thousand seconds: no test lasts that long, however busy the machine is.
LIMITED = f"""
[[rate_limits]]
project = "default"
calls_per_second = 0.001
burst = 2
[[accounts]]
name = "root"
password_sha512 = "{PASSWORD}"
role = "admin"
project = "default"
[[tokens]]
name = "bob"
sha256 = "{TOKEN}"
role = "operator"
project = "blue"
"""
ONE = 'project = "a"\ncalls_per_second = 1\nburst = 1'
LIST = deploy_pb2.ListInstanceGroupsRequest()


@pytest.mark.asyncio
async def test_a_tenant_above_its_rate_is_told_when_to_come_back_on_every_face(tmp_path: Path) -> None:
    async with (
        whole(tmp_path, config_text(extra=LIMITED)) as lab,
        httpx.AsyncClient(base_url=f"http://{lab.http_address}", trust_env=False, timeout=120) as http,
    ):
        body = {"logInByAccount": {"accountName": "root", "password": PASSWORD}}
        session = (await http.put("/zstack/v1/accounts/login", json=body)).json()["inventory"]["uuid"]
        for _ in range(2):
            await lab.deploy.ListInstanceGroups(LIST)

        for call in (lab.deploy.ListInstanceGroups(LIST), lab.deploy.WatchInstanceGroups(_watch()).read()):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert reason_of(refused.value) == "RATE_LIMITED"
            wait = detail(status_of(refused.value), error_details_pb2.RetryInfo).retry_delay
            assert 0 < wait.ToMilliseconds() <= 1_000_000
            metadata = detail(status_of(refused.value), error_details_pb2.ErrorInfo).metadata
            assert (metadata["project"], metadata["burst"]) == ("default", "2")

        answer = await http.get("/corral/v1/instance-groups")
        assert (answer.status_code, answer.json()["error"]["status"]) == (429, "RESOURCE_EXHAUSTED")
        assert 0 < int(answer.headers["retry-after"]) <= 1000

        who = {"Authorization": f"OAuth {session}"}
        queried = await http.get("/zstack/v1/zones", headers=who)
        submitted = await http.post("/zstack/v1/zones", headers=who, json={"params": {"name": "north"}})
        message = {"org.zstack.header.zone.APIQueryZoneMsg": {"session": {"uuid": session}}}
        legacy = await http.post("/zstack/api", json=message)
        for told in (queried, submitted, legacy):
            assert told.status_code == 429, told.text
            assert "project default may call" in told.text
            assert 0 < int(told.headers["retry-after"]) <= 1000

        refusals = lab.service.metrics.registry.get_sample_value(
            "corral_rate_limited_calls_total", {"project": "default"}
        )
        assert refusals == 6


def _watch() -> deploy_pb2.WatchInstanceGroupsRequest:
    return deploy_pb2.WatchInstanceGroupsRequest()


@pytest.mark.asyncio
async def test_health_and_other_tenants_are_answered_while_one_is_refused(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(extra=LIMITED)) as lab:
        for _ in range(2):
            await lab.deploy.ListInstanceGroups(LIST)
        with pytest.raises(grpc.aio.AioRpcError):
            await lab.deploy.ListInstanceGroups(LIST)
        for _ in range(5):
            await lab.deploy.ListInstanceGroups(LIST, metadata=(("authorization", "Bearer secret of bob"),))
        async with grpc.aio.insecure_channel(str(lab.service.rpc.address)) as channel:
            health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert health.status == health_pb2.HealthCheckResponse.SERVING


def test_the_file_gives_rates_by_project_and_one_for_all_others() -> None:
    text = """
[[rate_limits]]
calls_per_second = 10
burst = 20
[[rate_limits]]
project = "red"
calls_per_second = 0.5
burst = 1
"""
    rates = parse(config_text(extra=text), Path("/etc/corral")).rates
    assert rates == {"": Rate(10, 20), "red": Rate(0.5, 1)}
    assert parse(config_text(), Path("/etc/corral")).rates == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("calls_per_second = 0\nburst = 1", r"rate_limits\[0\]\.calls_per_second"),
        ("calls_per_second = 1\nburst = 0", r"rate_limits\[0\]\.burst"),
        ("calls_per_second = 1", r"rate_limits\[0\]\.burst: missing"),
        ('project = "a b"\ncalls_per_second = 1\nburst = 1', r"rate_limits\[0\]\.project"),
        (f"{ONE}\n[[rate_limits]]\n{ONE}", r"rate_limits\[1\]\.project: a is taken"),
    ],
)
def test_a_wrong_rate_is_named_by_its_key(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse(config_text(extra=f"[[rate_limits]]\n{text}\n"), Path("/etc/corral"))
