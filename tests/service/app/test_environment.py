"""Environment variables are checked before anything is stored, whichever way they come in."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path

import pytest

from service.app.catalog import Catalog, ModelServiceChange, NewModelService
from service.app.groups import Groups
from service.config.secrets import ConfiguredSecrets
from service.domain.catalog import Image, ModelService, RegisteredImage
from service.domain.environment import Secret
from service.domain.specs import DeployRequest
from service.domain.tenants import Caller
from service.errors import InvalidArgument, NotFound
from service.store import catalog as rows
from service.transactions.secrets import KnownSecrets
from tests.support.builders import node, spec
from tests.support.control_plane import CALLER, CLUSTER, ControlPlane, control_plane

pytestmark = pytest.mark.asyncio

WRONG = {
    "CORRAL_NODE_ADDRESS": ("10.6.6.6", "set by Corral itself"),
    "MASTER_ADDR": ("10.6.6.6", "set by Corral itself"),
    "A": ("x\nCORRAL_RANK=7", "one line"),
    "B C": ("x", "variable's name"),
    "ODD": ("secret://../../etc/shadow", "must name a secret"),
}
GIVEN = {name: value for name, (value, _) in WRONG.items()}
SECRETS = KnownSecrets(
    ConfiguredSecrets(
        [
            Secret("token", variable="CORRAL_TEST_TOKEN"),
            Secret("of-blue", variable="CORRAL_TEST_TOKEN", projects=frozenset({"blue"})),
        ],
        {"CORRAL_TEST_TOKEN": "the-secret"},
    )
)


def cases(plane: ControlPlane) -> Groups:
    return Groups(plane.store, plane.feed, plane.groups._planner, cluster=CLUSTER, secrets=SECRETS)


def told(error: InvalidArgument, field: str, *but: str) -> None:
    found = {violation.field: violation.description for violation in error.violations}
    assert found.keys() == {f"{field}[{name}]" for name in WRONG if name not in but}
    for name, (_, what) in WRONG.items():
        assert name in but or what in found[f"{field}[{name}]"]


@pytest.mark.parametrize("way", ["deploy", "plan", "scale"])
async def test_a_node_s_variables_are_refused_by_name(way: str) -> None:
    async with control_plane() as plane:
        groups = cases(plane)
        wrong = node(environment_variables=GIVEN)
        group = (await plane.deploy(DeployRequest(spec(1))))[-1].group
        assert group is not None
        call: Awaitable[object]
        if way == "scale":
            call = groups.scale(CALLER, group.uuid, [node(), wrong], [])
        else:
            call = getattr(groups, way)(CALLER, DeployRequest(spec(2, nodes=(node(), wrong))))
        with pytest.raises(InvalidArgument) as refused:
            await call
        told(refused.value, "model_services[1].environment_variables")


@pytest.mark.parametrize("secret", ["unheard-of", "of-blue"])
async def test_a_secret_that_the_project_does_not_have_is_not_found_by_the_variable_that_names_it(secret: str) -> None:
    async with control_plane() as plane:
        wrong = node(environment_variables={"HF_TOKEN": f"secret://{secret}"})
        for call in (cases(plane).deploy, cases(plane).plan):
            with pytest.raises(NotFound, match=f"no secret {secret}") as refused:
                await call(CALLER, DeployRequest(spec(2, nodes=(node(), wrong))))
            assert refused.value.field == "model_services[1].environment_variables[HF_TOKEN]"


async def test_a_reference_is_what_is_stored_and_its_own_project_may_make_it() -> None:
    async with control_plane() as plane:
        groups = cases(plane)
        request = DeployRequest(spec(1, nodes=(node(environment_variables={"T": "secret://of-blue"}),)))
        started = await groups.deploy(Caller("bob", "blue", "operator"), request)
        assert started.group.instances[0].spec.environment_variables == {"T": "secret://of-blue"}


async def test_an_entry_s_variables_are_refused_by_name(tmp_path: Path) -> None:
    async with control_plane() as plane:
        image = RegisteredImage("c" * 32, Image("i"), "kernel")
        await plane.store.write(lambda c: rows.put_image(c, image, now=1))
        cases = Catalog(plane.store, lambda: 1, tmp_path, secrets=SECRETS)
        entry = ModelService("", "e", Image(""), image_uuid=image.uuid, environment=GIVEN)
        with pytest.raises(InvalidArgument) as refused:
            await cases.create_model_service(CALLER, NewModelService(entry))
        told(refused.value, "environment_variables")
        made = await cases.create_model_service(
            CALLER, NewModelService(ModelService("", "e", Image(""), image_uuid=image.uuid))
        )
        with pytest.raises(InvalidArgument) as refused:
            await cases.update_model_service(CALLER, made.uuid, ModelServiceChange({"environment": GIVEN}))
        told(refused.value, "environment_variables")


async def test_a_secret_of_an_entry_is_asked_for_at_each_deploy(tmp_path: Path) -> None:
    async with control_plane() as plane:
        image = RegisteredImage("c" * 32, Image("i"), "kernel")
        await plane.store.write(lambda c: rows.put_image(c, image, now=1))
        entries = Catalog(plane.store, lambda: 1, tmp_path, secrets=SECRETS)
        entry = ModelService("", "e", Image(""), image_uuid=image.uuid, environment={"T": "secret://of-blue"})
        made = await entries.create_model_service(CALLER, NewModelService(entry))
        request = DeployRequest(spec(1, nodes=(node(model_service_uuid=made.uuid),)))
        with pytest.raises(NotFound, match="of-blue") as refused:
            await cases(plane).deploy(Caller("ann", "red", "operator"), request)
        assert refused.value.field == "model_services[0].uuid"
        await cases(plane).deploy(Caller("bob", "blue", "operator"), request)
