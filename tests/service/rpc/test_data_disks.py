"""Disks beside the root disk: what a member asks for is in its machine and its documents, or refused by its field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import catalog_pb2, deploy_pb2, group_pb2

from tests.service.config.test_keys_count import made
from tests.service.rpc.lab import reason_of
from tests.service.rpc.test_catalog import store
from tests.service.rpc.test_numa import delete, nodes, refused
from tests.support.whole import Whole, whole

pytestmark = pytest.mark.asyncio

MIB = 1 << 20


async def image(lab: Whole, name: str, kind: str = "raw") -> str:
    """The uuid of a file of the store, registered."""
    request = catalog_pb2.RegisterImageRequest(name=name, format=kind, file_name=name)
    uuid: str = (await lab.catalog.RegisterImage(request)).inventory.uuid
    return uuid


async def test_a_member_gets_the_disks_that_it_asks_for_and_is_told_of_them(tmp_path: Path) -> None:
    store(tmp_path, weights=b"weights" * 1000)
    async with whole(tmp_path) as lab:
        uuid = await image(lab, "weights")
        (node,) = nodes(1)
        disks = [{"size": 3 * MIB}, {"image_uuid": uuid}, {"image_uuid": uuid, "size": 5 * MIB}]
        final, (spec,) = await made(lab, node | {"data_disks": disks})
        assert [(one.size, one.image_uuid) for one in spec.data_disks] == [(3 * MIB, ""), (0, uuid), (5 * MIB, uuid)]
        empty, own_size, _ = spec.data_disks
        assert empty.image is None
        assert own_size.image is not None
        assert own_size.image.disk_path == str(tmp_path / "images" / "weights")
        sha256 = own_size.image.sha256["disk"]
        told = json.loads(spec.documents["rendezvous"])["node"]["data_disks"]
        of_image = {"image": "weights", "sha256": sha256}
        assert told == [
            {"serial": "corral-data-0", "size": 3 * MIB},
            {"serial": "corral-data-1", "size": 0, **of_image},
            {"serial": "corral-data-2", "size": 5 * MIB, **of_image},
        ]
        assert f'imageUuid: "{uuid}"' in final.yaml


async def test_an_image_is_kept_while_a_members_disk_is_of_it(tmp_path: Path) -> None:
    store(tmp_path, weights=b"weights" * 1000)
    async with whole(tmp_path) as lab:
        uuid = await image(lab, "weights")
        (node,) = nodes(1)
        group = await lab.up(model_services=[node | {"data_disks": [{"image_uuid": uuid}]}])
        remove = catalog_pb2.DeleteImageRequest(uuid=uuid)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await lab.catalog.DeleteImage(remove)
        assert reason_of(error.value) == "WRONG_STATE"
        assert "1 members" in (error.value.details() or "")
        await delete(lab, group.uuid)
        await lab.catalog.DeleteImage(remove)


async def test_disks_that_a_member_cannot_have_are_refused_by_name(tmp_path: Path) -> None:
    store(tmp_path, vmlinuz=b"kernel")
    async with whole(tmp_path) as lab:
        kernel = await image(lab, "vmlinuz", "kernel")
        (node,) = nodes(1)
        group = await lab.up(model_services=[node])
        wrong: list[tuple[dict[str, Any], str, str]] = [
            ({"image_uuid": "f" * 32}, "NOT_FOUND", "f" * 32),
            ({"image_uuid": kernel}, "INVALID_ARGUMENT", "data_disks[0].image_uuid: is of format kernel"),
            ({}, "INVALID_ARGUMENT", "data_disks[0].size: is required"),
        ]
        for disk, reason, words in wrong:
            asked = node | {"data_disks": [disk]}
            found, text = await refused(lab, model_services=[node, asked])
            assert (found, words in text) == (reason, True), text
            found, text = await refused(lab, model_services=[node], alternatives=[{"model_services": [asked]}])
            assert (found, words in text, "alternatives[0].model_services[0]" in text) == (reason, True, True), text
            added = deploy_pb2.ScaleInstanceGroupRequest(uuid=group.uuid, model_services=[group_pb2.NodeSpec(**asked)])
            with pytest.raises(grpc.aio.AioRpcError) as error:
                async for _ in lab.deploy.ScaleInstanceGroup(added):
                    pass
            assert (reason_of(error.value), words in (error.value.details() or "")) == (reason, True)
