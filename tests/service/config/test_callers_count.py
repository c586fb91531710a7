"""What the file says of callers, their quotas and secrets counts in the service that is started with it."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime
from pathlib import Path

import grpc
import httpx
import pytest
from corral.v1 import deploy_pb2, group_pb2

from service.config.file import parse
from service.config.secrets import ConfiguredSecrets
from service.domain.environment import SecretUnavailable
from tests.service.rpc.lab import reason_of
from tests.support.whole import ENTRY, GIB, config_text, whole


@pytest.mark.asyncio
async def test_a_program_signs_with_the_key_that_the_file_gives_it(tmp_path: Path) -> None:
    keys = """
[[access_keys]]
name = "pipeline"
id = "PIPELINE0001"
secret = "0123456789abcdef0123"
role = "admin"
project = "red"
[identity]
anonymous = "nobody"
"""
    async with whole(tmp_path, config_text(1, extra=keys)) as lab:
        date = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S UTC")
        text = f"GET\n{date}\n/v1/zones"
        signature = base64.b64encode(hmac.new(b"0123456789abcdef0123", text.encode(), hashlib.sha1).digest()).decode()
        headers = {"Authorization": f"ZStack PIPELINE0001:{signature}", "Date": date}
        async with httpx.AsyncClient(base_url=f"http://{lab.http_address}") as client:
            answer = await client.get("/v1/zones", headers=headers)
            assert answer.status_code == 200, answer.text
        (caller,) = [key.caller for key in lab.service.config.access_keys]
        assert (caller.principal, caller.project, caller.role) == ("pipeline", "red", "admin")


@pytest.mark.asyncio
async def test_a_token_of_the_file_is_of_its_project_and_role(tmp_path: Path) -> None:
    tokens = "".join(
        f"""
[[tokens]]
name = "{name}"
sha256 = "{hashlib.sha256(name.encode()).hexdigest()}"
role = "{role}"
{f'project = "{project}"' if project else ""}
"""
        for name, role, project in (("ann", "operator", "red"), ("bob", "viewer", "red"), ("carl", "operator", "blue"))
    )
    async with whole(tmp_path, config_text(1, cpu=8, extra=tokens + '[identity]\nanonymous = "nobody"\n')) as lab:

        def by(name: str) -> tuple[tuple[str, str], ...]:
            return (("authorization", f"Bearer {name}"),)

        node = group_pb2.NodeSpec(uuid=ENTRY, cpu_num=1, memory_size=GIB)
        request = deploy_pb2.DeployDistributedModelServiceRequest(
            name="g", service_creation_strategy="parallel", model_services=[node]
        )
        final = [e.event async for e in lab.deploy.DeployDistributedModelService(request, metadata=by("ann"))][-1].final
        assert (final.status, final.project) == ("Running", "red")
        listed = {}
        for name in ("ann", "bob", "carl"):
            answer = await lab.deploy.ListInstanceGroups(deploy_pb2.ListInstanceGroupsRequest(), metadata=by(name))
            listed[name] = len(answer.inventories)
        assert listed == {"ann": 1, "bob": 1, "carl": 0}
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            _ = [e async for e in lab.deploy.DeployDistributedModelService(request, metadata=by("bob"))]
        assert reason_of(refused.value) == "PERMISSION_DENIED", "a viewer only looks"


@pytest.mark.asyncio
async def test_a_project_holds_no_more_devices_than_the_file_says(tmp_path: Path) -> None:
    host = """
[[hosts]]
name = "devices"
zone = "zone-1"
driver = "simulated"
transport = "test"
options = { cpu = 8, memory = "64GiB", boot_ms = 1, "gpu.a100" = 4, "gpu.l4" = 4 }
[[quotas]]
project = "default"
gpus = { a100 = 1 }
"""
    async with whole(tmp_path, config_text(0, extra=host)) as lab:
        node = {"uuid": ENTRY, "cpu_num": 1, "memory_size": GIB}
        assert (await lab.up(model_services=[{**node, "gpus": [{"count": 2, "model": "l4"}]}])).status == "Running"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await lab.up(model_services=[{**node, "gpus": [{"count": 2, "model": "a100"}]}])
        assert reason_of(refused.value) == "QUOTA_EXCEEDED"


def test_a_bmcs_password_is_in_the_file_that_the_credential_names(tmp_path: Path) -> None:
    config = parse(
        config_text(0, extra='[[credentials]]\nname = "bmcs"\npassword_file = "/etc/bmc/secret"\n'), tmp_path
    )
    assert config.credentials == {"bmcs": {"password_file": "/etc/bmc/secret"}}


def test_a_secret_of_the_file_is_the_variables_value_for_its_projects_alone(tmp_path: Path) -> None:
    secret = '[[secrets]]\nname = "hf"\nvariable = "HF_TOKEN"\nprojects = ["red"]\n'
    secrets = ConfiguredSecrets(parse(config_text(0, extra=secret), tmp_path).secrets, {"HF_TOKEN": "s3cret"})
    assert secrets.value("hf", "red") == "s3cret"
    with pytest.raises(SecretUnavailable):
        secrets.value("hf", "blue")
