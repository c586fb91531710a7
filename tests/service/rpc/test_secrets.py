"""SecretService on the whole service: values go in, reach guests, and come out nowhere."""

from __future__ import annotations

import asyncio
import hashlib
import io
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from corral.v1 import catalog_pb2, deploy_pb2, secret_pb2
from prometheus_client import generate_latest
from sqlalchemy import Connection, text

from service.app import secrets as use_cases
from service.cli.main import run
from service.domain.catalog import configured_image_uuid
from service.drivers.base import MachineSpec
from service.drivers.simulated import SimulatedDriver
from service.store.codec import encode
from tests.service.rpc.test_catalog import refused
from tests.support.secrets import key_file, key_section
from tests.support.whole import ENTRY, ZONE, Whole, config_text, whole

pytestmark = pytest.mark.asyncio

CODE = grpc.StatusCode
NODE = {"uuid": ENTRY, "zone_uuid": ZONE, "cpu_num": 1, "memory_size": 1 << 30, "type": "VirtualMachine"}
Create, Rotate = secret_pb2.CreateSecretRequest, secret_pb2.RotateSecretRequest


def token(name: str, role: str, project: str) -> str:
    digest = hashlib.sha256(name.encode()).hexdigest()
    return f'[[tokens]]\nname = "{name}"\nsha256 = "{digest}"\nrole = "{role}"\nproject = "{project}"\n'


TOKENS = token("ann", "operator", "red") + token("vic", "viewer", "red") + token("bob", "operator", "blue")


def by(name: str) -> Any:
    return (("authorization", f"Bearer {name}"),)


@asynccontextmanager
async def running(
    directory: Path, keys: Iterable[Path], url: str = "sqlite://", extra: str = ""
) -> AsyncIterator[Whole]:
    async with whole(directory, config_text(url=url, extra=TOKENS + key_section(*keys) + extra)) as lab:
        yield lab


async def create(lab: Whole, who: str = "", **fields: Any) -> secret_pb2.Secret:
    request = Create(**{"name": "token", "value": "v", **fields})
    made: secret_pb2.Secret = (await lab.secrets.CreateSecret(request, metadata=by(who) if who else ())).inventory
    return made


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The env files of all machines that are made."""
    found: list[str] = []
    create_paused = SimulatedDriver.create_paused

    async def watched(self: SimulatedDriver, spec: MachineSpec, **more: Any) -> Any:
        found.append(spec.documents["env"])
        return await create_paused(self, spec, **more)

    monkeypatch.setattr(SimulatedDriver, "create_paused", watched)
    return found


async def test_a_value_reaches_the_guest_and_the_next_value_the_next_guest(tmp_path: Path, told: list[str]) -> None:
    async with running(tmp_path, [key_file(tmp_path, "one")]) as lab:
        secret = await create(lab, value=" first value ")
        assert (secret.name, secret.project, secret.key_name, secret.readable) == ("token", "default", "one", True)
        node = {**NODE, "environment_variables": {"T": "secret://token"}}
        group = await lab.up(model_services=[node])
        assert group.status == "Running"
        assert "T= first value " in told[-1] or "T=' first value '" in told[-1], told[-1]
        changed = (await lab.secrets.RotateSecret(Rotate(uuid=secret.uuid, value="second", etag=secret.etag))).inventory
        assert (changed.uuid, changed.create_date) == (secret.uuid, secret.create_date)
        assert changed.etag != secret.etag
        await lab.up(model_services=[node], name="later")
        assert "second" in told[-1]
        stale = lab.secrets.RotateSecret(Rotate(uuid=secret.uuid, value="third", etag=secret.etag))
        await refused(stale, CODE.ABORTED, "CONFLICT")


async def test_a_secret_in_use_is_not_deleted_and_its_users_are_named(tmp_path: Path) -> None:
    async with running(tmp_path, [key_file(tmp_path, "one")]) as lab:
        secret = await create(lab)
        await create(lab, name="token_")  # a name that a pattern could take for the other
        entry = catalog_pb2.CreateModelServiceRequest(
            name="e", image_uuid=configured_image_uuid("guest"), environment_variables={"T": "secret://token"}
        )
        made = (await lab.catalog.CreateModelService(entry)).inventory
        own = await lab.up(model_services=[{**NODE, "environment_variables": {"T": "secret://token"}}])
        by_entry = await lab.up(model_services=[{**NODE, "uuid": made.uuid}], name="by entry")
        await lab.up(model_services=[{**NODE, "environment_variables": {"T": "secret://token_"}}], name="other")
        request = secret_pb2.DeleteSecretRequest(uuid=secret.uuid)
        error = await refused(lab.secrets.DeleteSecret(request), CODE.FAILED_PRECONDITION, "WRONG_STATE")
        users = ", ".join(sorted([own.uuid, by_entry.uuid]))
        assert f"in use by instance groups {users};" in str(error.details())
        for group in (own, by_entry):
            async for _ in lab.deploy.DeleteInstanceGroup(deploy_pb2.DeleteInstanceGroupRequest(uuid=group.uuid)):
                pass
        await lab.secrets.DeleteSecret(request)
        await refused(lab.secrets.DeleteSecret(request), CODE.NOT_FOUND, "NOT_FOUND")


async def test_a_secret_that_there_is_not_is_not_found_by_the_variable_that_names_it(tmp_path: Path) -> None:
    async with running(tmp_path, [key_file(tmp_path, "one")]) as lab:
        await create(lab, "bob", name="of-blue")
        for name in ("of-blue", "none"):  # the same whether another project has it or nobody
            node = {**NODE, "environment_variables": {"T": f"secret://{name}"}}
            with pytest.raises(grpc.aio.AioRpcError) as missing:
                await lab.up(model_services=[node])
            assert missing.value.code() is CODE.NOT_FOUND
            assert missing.value.details() == f"model_services[0].environment_variables[T]: no secret {name}"


async def test_projects_see_and_change_their_own_and_viewers_change_none(tmp_path: Path) -> None:
    async with running(tmp_path, [key_file(tmp_path, "one")]) as lab:
        red, blue = await create(lab, "ann"), await create(lab, "bob", value="another")
        for who, seen in (
            ("ann", [red]),
            ("vic", [red]),
            ("bob", [blue]),
            ("", sorted([red, blue], key=lambda s: s.uuid)),
        ):
            found = await lab.secrets.ListSecrets(secret_pb2.ListSecretsRequest(), metadata=by(who) if who else ())
            assert list(found.inventories) == seen, who
        for call in (
            lab.secrets.GetSecret(secret_pb2.GetSecretRequest(uuid=blue.uuid), metadata=by("ann")),
            lab.secrets.RotateSecret(Rotate(uuid=blue.uuid, value="x"), metadata=by("ann")),
            lab.secrets.DeleteSecret(secret_pb2.DeleteSecretRequest(uuid=blue.uuid), metadata=by("ann")),
        ):
            await refused(call, CODE.NOT_FOUND, "NOT_FOUND")
        for call in (
            lab.secrets.CreateSecret(Create(name="x", value="x"), metadata=by("vic")),
            lab.secrets.RotateSecret(Rotate(uuid=red.uuid, value="x"), metadata=by("vic")),
            lab.secrets.DeleteSecret(secret_pb2.DeleteSecretRequest(uuid=red.uuid), metadata=by("vic")),
        ):
            await refused(call, CODE.PERMISSION_DENIED, "PERMISSION_DENIED")
        request = secret_pb2.GetSecretRequest(uuid=red.uuid)
        assert (await lab.secrets.GetSecret(request, metadata=by("vic"))).inventory == red


async def test_pages_are_by_name_and_a_name_filters(tmp_path: Path) -> None:
    async with running(tmp_path, [key_file(tmp_path, "one")]) as lab:
        for name in ("b", "a", "c"):
            await create(lab, name=name)
        first = await lab.secrets.ListSecrets(secret_pb2.ListSecretsRequest(page_size=2))
        rest = await lab.secrets.ListSecrets(secret_pb2.ListSecretsRequest(page_token=first.next_page_token))
        assert [s.name for s in [*first.inventories, *rest.inventories]] == ["a", "b", "c"]
        (only,) = (await lab.secrets.ListSecrets(secret_pb2.ListSecretsRequest(name="b"))).inventories
        assert only.name == "b"


async def test_one_request_is_one_secret_and_its_value_cannot_be_guessed_from_what_is_kept(tmp_path: Path) -> None:
    async with running(tmp_path, [key_file(tmp_path, "one")]) as lab:
        made = await create(lab, request_id="r", value="1234")
        assert await create(lab, request_id="r", value="1234") == made
        other = lab.secrets.CreateSecret(Create(name="token", value="1235", request_id="r"))
        await refused(other, CODE.INVALID_ARGUMENT, "REQUEST_ID_REUSED")

        def hashes(connection: Connection) -> list[str]:
            return [str(row[0]) for row in connection.execute(text("SELECT body_hash FROM requests"))]

        (kept,) = await lab.service.store.read(hashes)
        asked = use_cases._Asked("", "token", hashlib.sha256(b"1234").hexdigest())
        assert kept != hashlib.sha256(encode(asked).encode()).hexdigest()
        await refused(lab.secrets.CreateSecret(Create(name="token", value="v")), CODE.ALREADY_EXISTS, "ALREADY_EXISTS")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": "a b"}, "name"),
        ({"name": "-a"}, "name"),
        ({"name": ""}, "name"),
        ({"value": ""}, "value"),
        ({"value": "canary\nB=1"}, "value"),
        ({"value": "canary\x00"}, "value"),
        ({"value": "canary" * 6000}, "value"),
    ],
)
async def test_what_cannot_be_kept_is_refused_by_its_field_without_a_word_of_it(
    tmp_path: Path, fields: dict[str, str], field: str
) -> None:
    async with running(tmp_path, [key_file(tmp_path, "one")]) as lab:
        call = lab.secrets.CreateSecret(Create(**{"name": "token", "value": "v", **fields}))  # type: ignore[arg-type]
        error = await refused(call, CODE.INVALID_ARGUMENT, "INVALID_ARGUMENT", field)
        assert "canary" not in str(error)


async def test_what_the_configuration_names_is_not_stored_beside_and_a_project_has_room_for_so_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(use_cases, "MOST_OF_A_PROJECT", 2)
    named = '[[secrets]]\nname = "hf"\nvariable = "HF"\nprojects = ["red"]\n'
    async with running(tmp_path, [key_file(tmp_path, "one")], extra=named) as lab:
        call = lab.secrets.CreateSecret(Create(name="hf", value="v"), metadata=by("ann"))
        await refused(call, CODE.FAILED_PRECONDITION, "WRONG_STATE")
        await create(lab, "bob", name="hf")
        await create(lab, "bob", name="more")
        call = lab.secrets.CreateSecret(Create(name="much", value="v"), metadata=by("bob"))
        await refused(call, CODE.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")


async def test_a_service_without_the_key_says_so_refuses_and_loses_nothing(tmp_path: Path, told: list[str]) -> None:
    url = f"sqlite:///{tmp_path}/corral.db"
    first, second = key_file(tmp_path, "first"), key_file(tmp_path, "second")
    node = {**NODE, "environment_variables": {"T": "secret://token"}}
    async with running(tmp_path, [first], url) as lab:
        secret = await create(lab, value="kept")
    async with running(tmp_path, [], url) as lab:
        (there,) = (await lab.secrets.ListSecrets(secret_pb2.ListSecretsRequest())).inventories
        assert (there.uuid, there.readable) == (secret.uuid, False)
        for call in (
            lab.secrets.CreateSecret(Create(name="x", value="x")),
            lab.secrets.RotateSecret(Rotate(uuid=secret.uuid, value="x")),
        ):
            error = await refused(call, CODE.FAILED_PRECONDITION, "WRONG_STATE")
            assert "[[secret_keys]]" in str(error.details())
        with pytest.raises(grpc.aio.AioRpcError, match="encrypted with the key first") as unreadable:
            await lab.up(model_services=[node])
        assert unreadable.value.code() is CODE.FAILED_PRECONDITION
        await lab.service.gauges.refresh()
        metrics = generate_latest(lab.service.metrics.registry).decode()
        assert 'corral_secrets{key="first",readable="false"} 1.0' in metrics
    async with running(tmp_path, [second, first], url) as lab:  # the key is changed
        (there,) = (await lab.secrets.ListSecrets(secret_pb2.ListSecretsRequest())).inventories
        assert (there.key_name, there.readable, there.etag) == ("second", True, secret.etag)
    async with running(tmp_path, [second], url) as lab:
        assert (await lab.up(model_services=[node])).status == "Running"
        assert "T=kept" in told[-1]


async def test_the_same_by_json(tmp_path: Path) -> None:
    async with (
        running(tmp_path, [key_file(tmp_path, "one")]) as lab,
        httpx.AsyncClient(base_url=f"http://{lab.http_address}/corral/v1", trust_env=False, timeout=60) as http,
    ):
        made = (await http.post("/secrets", json={"name": "token", "value": "canary"})).json()["inventory"]
        assert (await http.get(f"/secrets/{made['uuid']}")).json()["inventory"] == made
        assert (await http.get("/secrets", params={"name": "token"})).json()["inventories"] == [made]
        changed = await http.post(f"/secrets/{made['uuid']}:rotate", json={"value": "canary-2"})
        bad = await http.post("/secrets", json={"name": "other", "value": ["canary"]})
        gone = await http.delete(f"/secrets/{made['uuid']}")
        assert [answer.status_code for answer in (changed, bad, gone)] == [200, 400, 200]
        assert "canary" not in changed.text + bad.text + str(made)


async def test_the_command_keeps_changes_lists_and_forgets(
    tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(tmp_path, [key_file(tmp_path, "one")]) as lab:
        address = str(lab.service.rpc.address)

        def called(*arguments: str, stdin: bytes = b"") -> str:
            """What a sub-command printed."""
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            assert run(["--server", address, "secret", *arguments], {}) == 0
            return capsys.readouterr().out

        def refusal(*arguments: str, stdin: bytes = b"") -> str:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            assert run(["--server", address, "secret", *arguments], {}) != 0
            return capsys.readouterr().err

        value = tmp_path / "value"
        value.write_text("canary-file\n")
        assert "is kept" in await asyncio.to_thread(called, "set", "token", stdin=b"canary-1\n")
        assert "is changed" in await asyncio.to_thread(called, "set", "token", "-f", str(value))
        await lab.up(model_services=[{**NODE, "environment_variables": {"T": "secret://token"}}])
        assert "T=canary-file\n" in told[-1]
        listed = await asyncio.to_thread(called, "list")
        assert "  default  token  " in listed
        assert "canary" not in listed
        assert "in use by" in await asyncio.to_thread(refusal, "delete", "token")
        spare = await create(lab, name="spare")
        assert "is changed" in await asyncio.to_thread(called, "set", spare.uuid, stdin=b"v")
        await asyncio.to_thread(called, "delete", "spare")
        assert "no secret 'spare'" in await asyncio.to_thread(refusal, "delete", "spare")
        bad = await asyncio.to_thread(refusal, "set", "bad", stdin=b"canary\xff")
        assert ("not UTF-8" in bad, "canary" in bad) == (True, False)
        await create(lab, "ann", name="token")
        assert "several secrets token" in await asyncio.to_thread(refusal, "delete", "token")
