"""CatalogService over gRPC, on the whole service with simulated hosts."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Awaitable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pycdlib
import pytest
from corral.v1 import catalog_pb2, deploy_pb2
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import error_details_pb2

from service.domain.catalog import configured_image_uuid
from service.serving.rendezvous import template
from service.store import groups
from tests.service.rpc.lab import detail, reason_of, status_of
from tests.support.whole import ENTRY, GIB, Whole, config_text, whole

pytestmark = pytest.mark.asyncio

GUEST = configured_image_uuid("guest")
UNKNOWN = "e" * 32


def qcow2(*, version: int = 3, backing: int = 0, features: int = 0) -> bytes:
    """The beginning of a qcow2 disk (QEMU docs/interop/qcow2.txt), as long as it must be to be taken for one."""
    header = b"QFI\xfb" + version.to_bytes(4, "big") + backing.to_bytes(8, "big")
    header += bytes(4) + (16).to_bytes(4, "big") + bytes(48)  # clusters of 64 KiB
    return header + features.to_bytes(8, "big") + bytes(432)


def store(directory: Path, **files: bytes) -> None:
    images = directory / "images"
    images.mkdir(exist_ok=True)
    for name, content in files.items():
        (images / name).write_bytes(content)


async def refused(call: Awaitable[Any], code: grpc.StatusCode, reason: str, field: str = "") -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    assert (error.value.code(), reason_of(error.value)) == (code, reason), error.value.details()
    if field and code is grpc.StatusCode.INVALID_ARGUMENT:
        bad = detail(status_of(error.value), error_details_pb2.BadRequest)
        assert [v.field for v in bad.field_violations] == [field]
    elif field:
        assert detail(status_of(error.value), error_details_pb2.ErrorInfo).metadata["field"] == field
    return error.value


async def create(lab: Whole, **fields: Any) -> catalog_pb2.ModelService:
    request = catalog_pb2.CreateModelServiceRequest(**{"name": "entry", "image_uuid": GUEST, **fields})
    inventory: catalog_pb2.ModelService = (await lab.catalog.CreateModelService(request)).inventory
    return inventory


FULL: dict[str, Any] = {
    "name": "served",
    "description": "a model",
    "root_disk_size": 5 * GIB,
    "framework": "vllm",
    "model_uuid": "b" * 32,
    "initial_command": "serve --lead",
    "worker_command": "serve",
    "ports": {"service": 9000, "rendezvous": 6379},
    "readiness_check": {
        "path": "/ready",
        "port": 9001,
        "interval": 500,
        "timeout": 250,
        "canary": {"path": "/c", "body": "{}", "expect": "x"},
        "kind": "command",
        "command": "test -e /run/up",
    },
    "default_cpu_num": 3,
    "default_memory_size": 2 * GIB,
    "environment_variables": {"A": "1", "B": ""},
    "workers_first": True,
    "boot_timeout": 60_000,
    "stop_grace": 1_000,
    "support_metrics": ["tokens", "latency"],
    "weights": {"uri": "http://models.example/ring.gguf", "sha256": "d" * 64},
}


async def test_an_entry_comes_back_as_it_was_given_and_has_defaults_for_the_rest(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        made = await create(lab, **FULL, request_id="one")
        request = catalog_pb2.CreateModelServiceRequest(image_uuid=GUEST, **FULL)
        for field in request.DESCRIPTOR.fields:
            if field.name in FULL:
                assert getattr(made, field.name) == getattr(request, field.name), field.name
        assert made == await create(lab, **FULL, request_id="one")
        got = await lab.catalog.GetModelService(catalog_pb2.GetModelServiceRequest(uuid=made.uuid))
        assert got.inventory == made
        plain = await create(lab)
        assert (plain.framework, dict(plain.ports), plain.readiness_check.path) == (
            "custom",
            {"service": 8080},
            "/health",
        )
        assert (plain.default_cpu_num, plain.default_memory_size, plain.boot_timeout) == (1, GIB, 300_000)
        listed = await lab.catalog.ListModelServices(catalog_pb2.ListModelServicesRequest())
        assert [e.name for e in listed.inventories] == ["default", "entry", "served"]


async def test_groups_are_made_from_an_entry_that_was_added_at_run_time(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        entry = await create(lab, default_cpu_num=2, default_memory_size=GIB, stop_grace=1)
        node = {"uuid": entry.uuid, "name": "n", "type": "VirtualMachine"}
        group = await lab.up(model_services=[node])
        assert (group.status, group.instances[0].cpu_num) == ("Running", 2)
        used = catalog_pb2.DeleteModelServiceRequest(uuid=entry.uuid)
        error = await refused(lab.catalog.DeleteModelService(used), grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE")
        assert "1 instance groups" in (error.details() or "")
        delete = deploy_pb2.DeleteInstanceGroupRequest(uuid=group.uuid)
        assert [a async for a in lab.deploy.DeleteInstanceGroup(delete)]
        await lab.catalog.DeleteModelService(used)
        gone = catalog_pb2.GetModelServiceRequest(uuid=entry.uuid)
        await refused(lab.catalog.GetModelService(gone), grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


async def test_an_update_concerns_groups_that_are_made_afterwards_alone(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        entry = await create(lab, environment_variables={"MODE": "old"}, stop_grace=1)
        node = {"uuid": entry.uuid, "name": "n", "type": "VirtualMachine", "cpu_num": 1}
        first = await lab.up(model_services=[node])
        request = catalog_pb2.UpdateModelServiceRequest(
            uuid=entry.uuid,
            environment_variables={"MODE": "new"},
            description="ignored",
            update_mask=FieldMask(paths=["environment_variables"]),
            etag=entry.etag,
        )
        changed = (await lab.catalog.UpdateModelService(request)).inventory
        assert (dict(changed.environment_variables), changed.description) == ({"MODE": "new"}, "")
        await refused(lab.catalog.UpdateModelService(request), grpc.StatusCode.ABORTED, "CONFLICT")
        second = await lab.up(model_services=[node])
        await lab.service.roster.sync()
        modes = []
        for uuid in (first.uuid, second.uuid):
            group = await lab.service.store.read(partial(groups.load, uuid=uuid))
            modes.append(template(group.instances[0], lab.service.directory.catalogue).environment["MODE"])
        assert modes == ["old", "new"]


BAD_URIS = (
    "ftp://a/b",
    "/models/b",
    "http://user:password@a/b",
    "http://a/b?token=1",
    "http://a/b#c",
    "http://a",
    'http://a/"b',
)
BAD_ENTRIES: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "name"),
    ({"image_uuid": ""}, "image_uuid"),
    ({"framework": "caffe"}, "framework"),
    ({"ports": {"service": 70000}}, "ports[service]"),
    ({"readiness_check": {"path": "health"}}, "readiness_check.path"),
    ({"readiness_check": {"canary": {"path": "c", "expect": "x"}}}, "readiness_check.canary.path"),
    ({"readiness_check": {"kind": "tcp"}}, "readiness_check.kind"),
    ({"readiness_check": {"kind": "command"}}, "readiness_check.command"),
    ({"readiness_check": {"kind": "http", "command": "true"}}, "readiness_check.command"),
    ({"readiness_check": {"kind": "serial", "line": " * "}}, "readiness_check.line"),
    ({"readiness_check": {"kind": "agent", "line": "up"}}, "readiness_check.line"),
    ({"readiness_check": {"kind": "agent", "timeout": 5001}}, "readiness_check.timeout"),
    ({"readiness_check": {"canary": {"path": "/c"}}}, "readiness_check.canary.expect"),
    ({"environment_variables": {"A": "one\nB=two"}}, "environment_variables[A]"),
    ({"environment_variables": {"1A": "x"}}, "environment_variables"),
    ({"default_cpu_num": 5000}, "default_cpu_num"),
    ({"root_disk_size": -1}, "root_disk_size"),
    ({"boot_timeout": 8 * 86_400_000}, "boot_timeout"),
    ({"weights": {"uri": "http://a/b"}}, "weights.sha256"),
    ({"weights": {"sha256": "d" * 64}}, "weights.uri"),
    ({"weights": {"uri": "http://a/b", "sha256": "d"}}, "weights.sha256"),
    *(({"initial_command": "serve", "weights": {"uri": uri, "sha256": "d" * 64}}, "weights.uri") for uri in BAD_URIS),
    ({"weights": {"uri": "http://a/b", "sha256": "d" * 64}}, "weights"),
]


async def test_bad_entries_are_refused_by_the_field(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        for changes, field in BAD_ENTRIES:
            await refused(create(lab, **changes), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", field)
        unknown = create(lab, image_uuid=UNKNOWN)
        await refused(unknown, grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "image_uuid")
        taken = create(lab, resource_uuid=ENTRY)
        await refused(taken, grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")
        of_file = lab.catalog.DeleteModelService(catalog_pb2.DeleteModelServiceRequest(uuid=ENTRY))
        await refused(of_file, grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE")
        bad_mask = catalog_pb2.UpdateModelServiceRequest(uuid=ENTRY, update_mask=FieldMask(paths=["etag"]))
        await refused(
            lab.catalog.UpdateModelService(bad_mask),
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_ARGUMENT",
            "update_mask",
        )
        listed = await lab.catalog.ListModelServices(catalog_pb2.ListModelServicesRequest())
        assert [e.uuid for e in listed.inventories] == [ENTRY]


# --- images --------------------------------------------------------------------------------------------------------


async def test_an_image_of_the_store_is_registered_used_and_forgotten(tmp_path: Path) -> None:
    store(tmp_path, vmlinuz=b"kernel", initrd=b"memory")
    async with whole(tmp_path) as lab:
        request = catalog_pb2.RegisterImageRequest(
            name="own",
            format="kernel",
            file_name="vmlinuz",
            initrd_file_name="initrd",
            sha256=hashlib.sha256(b"kernel").hexdigest().upper(),
            request_id="one",
            kernel_arguments="quiet",
            delivery="nocloud",
        )
        image = (await lab.catalog.RegisterImage(request)).inventory
        assert (image.format, image.size) == ("kernel", 12)
        assert image.sha256 == hashlib.sha256(b"kernel").hexdigest()
        stored = (await lab.service.catalog.get_image(image.uuid)).image
        assert (stored.kernel_arguments, stored.delivery) == ("quiet", "nocloud")
        assert image.initrd_sha256 == hashlib.sha256(b"memory").hexdigest()
        assert (await lab.catalog.RegisterImage(request)).inventory == image
        assert (await lab.catalog.GetImage(catalog_pb2.GetImageRequest(uuid=image.uuid))).inventory == image
        entry = await create(lab, image_uuid=image.uuid)
        delete = catalog_pb2.DeleteImageRequest(uuid=image.uuid)
        await refused(lab.catalog.DeleteImage(delete), grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE")
        await lab.catalog.DeleteModelService(catalog_pb2.DeleteModelServiceRequest(uuid=entry.uuid))
        await lab.catalog.DeleteImage(delete)
        listed = await lab.catalog.ListImages(catalog_pb2.ListImagesRequest())
        assert [i.name for i in listed.inventories] == ["guest"]
        assert (tmp_path / "images" / "vmlinuz").exists()


async def test_only_plain_files_of_the_store_in_their_own_format_are_registered(tmp_path: Path) -> None:
    store(
        tmp_path,
        empty=b"",
        disk=b"\0" * 512,
        good=qcow2(),
        backed=qcow2(backing=104),
        external=qcow2(features=4),
        short=b"QFI\xfb",
    )
    (tmp_path / "secret").write_bytes(b"do not read")
    os.symlink(tmp_path / "secret", tmp_path / "images" / "link")
    os.mkfifo(tmp_path / "images" / "pipe")
    (tmp_path / "images" / "folder").mkdir()
    bad: list[tuple[dict[str, Any], str]] = [
        ({"file_name": name}, "file_name")
        for name in ("missing", "empty", "link", "pipe", "folder", "..", ".", "../secret", "/etc/passwd", "a\\b")
    ]
    bad += [
        ({"file_name": "disk", "format": "qcow2"}, "file_name"),
        ({"file_name": "good", "format": "raw"}, "file_name"),
        ({"file_name": "backed", "format": "qcow2"}, "file_name"),
        ({"file_name": "external", "format": "qcow2"}, "file_name"),
        ({"file_name": "short", "format": "qcow2"}, "file_name"),
        ({"file_name": "disk", "format": "iso"}, "format"),
        ({"file_name": "disk", "sha256": "0" * 64}, "sha256"),
        ({"file_name": "disk", "kernel_arguments": "quiet"}, "kernel_arguments"),
        ({"file_name": "disk", "delivery": "pigeon"}, "delivery"),
        ({"file_name": "disk", "format": "kernel", "delivery": "seed"}, "delivery"),
        ({"file_name": "disk", "format": "raw", "delivery": "seed"}, "file_name"),
        ({"file_name": "disk", "initrd_file_name": "disk"}, "initrd_file_name"),
        ({"file_name": "disk", "format": "kernel", "initrd_sha256": "0" * 64}, "initrd_file_name"),
        ({"file_name": "disk", "format": "kernel", "initrd_file_name": "missing"}, "initrd_file_name"),
        (
            {"file_name": "disk", "format": "kernel", "initrd_file_name": "disk", "initrd_sha256": "0" * 64},
            "initrd_sha256",
        ),
    ]
    async with whole(tmp_path) as lab:
        for fields, field in bad:
            request = catalog_pb2.RegisterImageRequest(**{"name": "bad", "format": "raw", **fields})
            call = lab.catalog.RegisterImage(request)
            await refused(call, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", field)
        for name, image_format in (("disk", "raw"), ("good", "qcow2")):
            request = catalog_pb2.RegisterImageRequest(name=name, format=image_format, file_name=name)
            assert (await lab.catalog.RegisterImage(request)).inventory.format == image_format


async def test_an_entry_of_run_time_outlives_a_restart_and_follows_its_image_in_the_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/corral.db"
    async with whole(tmp_path, config_text(url=url)) as lab:
        entry = await create(lab)
        assert lab.service.directory.zones
    changed = config_text(url=url).replace('kernel = "kernel"', 'kernel = "newer"')
    async with whole(tmp_path, changed) as lab:
        kept = await lab.service.catalog.get_model_service(entry.uuid)
        assert kept.image.kernel_path == str(tmp_path / "newer")
        request = catalog_pb2.UpdateModelServiceRequest(uuid=ENTRY, description="at run time")
        await lab.catalog.UpdateModelService(request)
    async with whole(tmp_path, changed) as lab:
        got = await lab.catalog.GetModelService(catalog_pb2.GetModelServiceRequest(uuid=ENTRY))
        assert got.inventory.description == "at run time"


async def test_viewers_are_told_names_of_variables_and_no_values(tmp_path: Path) -> None:
    token = hashlib.sha256(b"of-a-viewer").hexdigest()
    text = f'{config_text()}\n[[tokens]]\nname = "vic"\nsha256 = "{token}"\nrole = "viewer"\n'
    async with whole(tmp_path, text) as lab:
        made = await create(lab, environment_variables={"A": "canary", "B": ""})
        assert dict(made.environment_variables) == {"A": "canary", "B": ""}, "an administrator's answer"
        viewer = (("authorization", "Bearer of-a-viewer"),)
        one = await lab.catalog.GetModelService(catalog_pb2.GetModelServiceRequest(uuid=made.uuid), metadata=viewer)
        assert dict(one.inventory.environment_variables) == {"A": "", "B": ""}
        page = await lab.catalog.ListModelServices(catalog_pb2.ListModelServicesRequest(), metadata=viewer)
        assert "canary" not in str(page)


@pytest.mark.parametrize("place", [b"corral seed, to be laid in\n", b"something else"])
async def test_an_image_that_bare_metal_boots_is_registered_where_it_keeps_a_place(
    tmp_path: Path, place: bytes
) -> None:
    made, written = pycdlib.PyCdlib(), io.BytesIO()
    made.new(interchange_level=3, rock_ridge="1.09")
    made.add_fp(io.BytesIO(place.ljust(4096, b"\0")), 4096, "/SEED.;1", rr_name="seed.cpio")
    made.write_fp(written)
    made.close()
    store(tmp_path, **{"metal.iso": written.getvalue()})
    request = catalog_pb2.RegisterImageRequest(name="metal", format="raw", file_name="metal.iso", delivery="seed")
    async with whole(tmp_path) as lab:
        if place.startswith(b"corral"):
            image = (await lab.catalog.RegisterImage(request)).inventory
            stored = (await lab.service.catalog.get_image(image.uuid)).image
            assert (stored.delivery, Path(stored.disk_path).name) == ("seed", "metal.iso")
            return
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await lab.catalog.RegisterImage(request)
        assert "file_name" in str(refused.value.details())
