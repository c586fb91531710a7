"""Images that come by the API: by RPC stream and over HTTP, gone on with where they broke off, looked at as all are."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from corral.v1 import catalog_pb2, deploy_pb2

from service.app.image_store import KEEP_SECONDS
from service.errors import Unavailable
from service.store import catalog
from tests.service.rpc.lab import soon
from tests.service.rpc.test_catalog import create, qcow2, refused
from tests.support.whole import Whole, config_text, whole

pytestmark = pytest.mark.asyncio

INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
DISK = bytes(range(256)) * 16
TOKENS = "".join(
    f'\n[[tokens]]\nname = "{role}"\nsha256 = "{sha256(role.encode()).hexdigest()}"\nrole = "{role}"\n'
    for role in ("viewer", "operator", "admin")
)


def digest(data: bytes) -> str:
    return sha256(data).hexdigest()


def messages(data: bytes, *, step: int = 1000, offset: int = 0, **fields: Any) -> Iterator[Any]:
    """An upload in parts, as a client sends it; `offset`: where it goes on."""
    said = {"name": "disk", "format": "raw", "size": len(data), "sha256": digest(data), "offset": offset, **fields}
    yield catalog_pb2.UploadImageRequest(**said)
    for start in range(offset, len(data), step):
        yield catalog_pb2.UploadImageRequest(data=data[start : start + step])


async def upload(lab: Whole, data: bytes, **more: Any) -> Any:
    return await lab.catalog.UploadImage(messages(data, **more))


async def received(lab: Whole, data: bytes) -> int:
    request = catalog_pb2.GetImageUploadRequest(sha256=digest(data))
    count: int = (await lab.catalog.GetImageUpload(request)).received
    return count


def files(directory: Path) -> list[str]:
    store = directory / "images"
    return sorted(os.listdir(store)) if store.exists() else []


def kept_files(directory: Path) -> list[str]:
    return [name for name in files(directory) if not name.startswith(".")]


async def test_what_is_uploaded_is_an_image_like_any_other_and_goes_with_its_file(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        done = await upload(lab, DISK, request_id="one")
        image = done.inventory
        assert (image.name, image.format, image.size, image.sha256) == ("disk", "raw", len(DISK), digest(DISK))
        assert done.received == len(DISK)
        assert files(tmp_path) == [f"upload-{digest(DISK)}"]
        assert (tmp_path / "images" / f"upload-{digest(DISK)}").read_bytes() == DISK
        assert (await upload(lab, DISK, request_id="one")).inventory == image, "the same request"
        listed = await lab.catalog.ListImages(catalog_pb2.ListImagesRequest())
        assert [one.name for one in listed.inventories] == ["disk", "guest"]

        entry = await create(lab, image_uuid=image.uuid, stop_grace=1)
        group = await lab.up(model_services=[{"uuid": entry.uuid, "cpu_num": 1}])
        assert group.status == "Running"
        delete = catalog_pb2.DeleteImageRequest(uuid=image.uuid)
        await refused(lab.catalog.DeleteImage(delete), grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE")
        # The entry goes on to another image; the members are still made from this one.
        change = catalog_pb2.UpdateModelServiceRequest(uuid=entry.uuid, image_uuid=(await other(lab)).uuid)
        await lab.catalog.UpdateModelService(change)
        error = await refused(lab.catalog.DeleteImage(delete), grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE")
        assert "1 members" in (error.details() or "")
        assert f"upload-{digest(DISK)}" in files(tmp_path)
        assert [a async for a in lab.deploy.DeleteInstanceGroup(deploy_pb2.DeleteInstanceGroupRequest(uuid=group.uuid))]
        await lab.catalog.DeleteImage(catalog_pb2.DeleteImageRequest(uuid=image.uuid, validate_only=True))
        assert f"upload-{digest(DISK)}" in files(tmp_path)
        await lab.catalog.DeleteImage(delete)
        assert files(tmp_path) == [f"upload-{digest(DISK[::-1])}"]


async def other(lab: Whole) -> Any:
    return (await upload(lab, DISK[::-1], name="other")).inventory


async def test_two_images_may_have_the_same_bytes_which_go_with_the_last(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        huge = upload(lab, DISK, size=1 << 40)
        error = await refused(huge, grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE")
        assert "free bytes" in (error.details() or "")
        one = (await upload(lab, DISK)).inventory
        assert await received(lab, DISK) == len(DISK)
        two = (await upload(lab, DISK, name="again", offset=len(DISK))).inventory
        three = (await upload(lab, DISK, name="in vain")).inventory
        assert len({one.uuid, two.uuid, three.uuid}) == 3
        for image, left in ((two, True), (three, True), (one, False)):
            await lab.catalog.DeleteImage(catalog_pb2.DeleteImageRequest(uuid=image.uuid))
            assert files(tmp_path) == ([f"upload-{digest(DISK)}"] if left else [])


async def test_an_upload_that_breaks_off_goes_on_where_it_ended_also_after_the_service_did(tmp_path: Path) -> None:
    sent = asyncio.Event()

    async def broken() -> AsyncIterator[Any]:
        parts = messages(DISK)
        for _ in range(3):
            yield next(parts)
        await sent.wait()

    text = config_text(url=f"sqlite:///{tmp_path}/corral.db")
    async with whole(tmp_path, text) as lab:
        call = lab.catalog.UploadImage(broken())
        await soon(lambda: arrived(lab, 2000))
        await refused(upload(lab, DISK), grpc.StatusCode.ABORTED, "CONFLICT")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await soon(lambda: free(lab))
        assert await received(lab, DISK) == 2000
        # A part of it by a call of its own.
        cut = catalog_pb2.UploadImageRequest(**{**said(), "offset": 1500, "data": DISK[1500:2500]})
        assert (await lab.catalog.UploadImage(iter([cut]))).received == 2500
        too_far = await refused(upload(lab, DISK, offset=2501), *INVALID, "offset")
        assert "2500" in (too_far.details() or "")
    assert files(tmp_path) == [f".upload-{digest(DISK)}.part"]
    async with whole(tmp_path, text) as lab:
        assert await received(lab, DISK) == 2500
        done = await upload(lab, DISK, offset=2500)
        assert (done.inventory.size, done.received) == (len(DISK), len(DISK))
        assert files(tmp_path) == [f"upload-{digest(DISK)}"]


def said() -> dict[str, Any]:
    return {"name": "disk", "format": "raw", "size": len(DISK), "sha256": digest(DISK)}


async def arrived(lab: Whole, count: int) -> bool:
    return await received(lab, DISK) == count


async def free(lab: Whole) -> bool:
    """Whether nobody uploads any more: an upload of nothing at its end is let in."""
    end = await received(lab, DISK)
    request = catalog_pb2.UploadImageRequest(**said(), offset=end)
    try:
        await lab.catalog.UploadImage(iter([request]))
    except grpc.aio.AioRpcError:
        return False
    return True


async def test_who_still_sends_is_heard_out_before_a_refusal_but_not_for_all_of_a_large_image(tmp_path: Path) -> None:
    """A client that is cut off while it sends may be told INTERNAL by its own library."""
    sent: list[int] = []

    def counted(size: int) -> Iterator[Any]:
        for number, message in enumerate(messages(bytes(size), step=10_000, format="iso")):
            sent.append(number)
            yield message

    async with whole(tmp_path) as lab:
        await refused(lab.catalog.UploadImage(counted(500_000)), *INVALID, "format")
        assert len(sent) == 51
        sent.clear()
        with pytest.raises(grpc.aio.AioRpcError):
            await lab.catalog.UploadImage(counted(64 << 20))
        assert len(sent) < 6_711


async def test_what_is_wrong_with_an_upload_is_told_by_its_field_and_leaves_nothing(tmp_path: Path) -> None:
    packed = b"\x1f\x8b" + DISK
    bad: list[tuple[bytes, dict[str, Any], str]] = [
        (DISK, {"sha256": "0" * 64}, "sha256"),
        (DISK, {"sha256": "0"}, "sha256"),
        (DISK, {"sha256": ""}, "sha256"),
        (DISK, {"size": 0}, "size"),
        (DISK, {"size": -1}, "size"),
        (DISK, {"size": 2 << 20}, "size"),
        (DISK, {"size": 65 << 40}, "size"),
        (DISK, {"name": ""}, "name"),
        (DISK, {"name": "a\nb"}, "name"),
        (DISK, {"format": ""}, "format"),
        (DISK, {"format": "iso"}, "format"),
        (DISK, {"offset": -1}, "offset"),
        (DISK, {"offset": 1}, "offset"),
        (DISK, {"offset": len(DISK) + 1}, "offset"),
        (DISK, {"initrd_sha256": "0" * 64}, "initrd_sha256"),
        (DISK, {"format": "kernel", "initrd_sha256": "0" * 64}, "initrd_sha256"),
        (DISK, {"format": "kernel", "initrd_sha256": digest(DISK)}, "initrd_sha256"),
        (DISK, {"resource_uuid": "x"}, "resource_uuid"),
        (DISK, {"kernel_arguments": "quiet"}, "kernel_arguments"),
        (DISK, {"format": "kernel", "kernel_arguments": "a\nb"}, "kernel_arguments"),
        (DISK, {"delivery": "pigeon"}, "delivery"),
        (DISK, {"delivery": "seed", "format": "kernel"}, "delivery"),
        (DISK, {"delivery": "seed"}, "data"),
        (DISK, {"format": "initrd", "delivery": "nocloud"}, "delivery"),
        (DISK, {"format": "qcow2"}, "data"),
        (qcow2(), {"format": "raw"}, "data"),
        (qcow2(), {"format": "initrd"}, "data"),
        (qcow2(backing=104), {"format": "qcow2"}, "data"),
        (qcow2(features=4), {"format": "qcow2"}, "data"),
        (qcow2()[:50], {"format": "qcow2"}, "data"),
        (packed, {}, "data"),
        (DISK, {"size": len(DISK) - 1}, "data"),
    ]
    async with whole(tmp_path, config_text().replace("[catalog]", '[catalog]\nmax_upload_size = "1MiB"')) as lab:
        for data, fields, field in bad:
            await refused(upload(lab, data, **fields), *INVALID, field)
            assert not kept_files(tmp_path), fields
            if field == "data" and "size" not in fields:
                assert not await received(lab, data), fields
        await refused(lab.catalog.UploadImage(iter([])), *INVALID, "sha256")
        twice = [catalog_pb2.UploadImageRequest(**said()), catalog_pb2.UploadImageRequest(name="x", data=b"x")]
        await refused(lab.catalog.UploadImage(iter(twice)), *INVALID, "name")
        made = (await upload(lab, DISK, request_id="one")).inventory
        again = upload(lab, DISK[::-1], request_id="one")
        await refused(again, grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED", "request_id")
        taken = upload(lab, DISK[::-1], resource_uuid=made.uuid)
        await refused(taken, grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")


async def test_a_kernel_finds_the_initrd_that_was_uploaded_before_it(tmp_path: Path) -> None:
    kernel, initrd = b"kernel" * 100, b"memory" * 100
    async with whole(tmp_path) as lab:
        first = await upload(lab, initrd, format="initrd")
        assert (first.received, first.HasField("inventory")) == (len(initrd), False)
        more = {"kernel_arguments": "quiet panic=1", "delivery": "nocloud"}
        image = (await upload(lab, kernel, format="kernel", initrd_sha256=digest(initrd), **more)).inventory
        assert (image.format, image.size) == ("kernel", len(kernel) + len(initrd))
        assert (image.sha256, image.initrd_sha256) == (digest(kernel), digest(initrd))
        assert files(tmp_path) == sorted([f"upload-{digest(kernel)}", f"upload-{digest(initrd)}"])
        stored = await lab.service.catalog.get_image(image.uuid)
        assert (stored.image.kernel_arguments, stored.image.delivery) == ("quiet panic=1", "nocloud")
        assert stored.image.initrd_path == str(tmp_path / "images" / f"upload-{digest(initrd)}")
        await lab.catalog.DeleteImage(catalog_pb2.DeleteImageRequest(uuid=image.uuid))
        assert files(tmp_path) == []


async def test_a_process_that_was_killed_leaves_nothing_that_is_not_cleaned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, now: int) -> None:
        raise Unavailable("the database went away")

    async with whole(tmp_path) as lab:
        cases = lab.service.uploads
        with monkeypatch.context() as patch:
            patch.setattr(catalog, "put_image", killed)  # after the file was kept, before the commit
            await refused(upload(lab, DISK), grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
        assert files(tmp_path) == [f".upload-{digest(DISK)}.part", f"upload-{digest(DISK)}"]
        assert await cases.clean() == 0, "it may be gone on with"
        image = (await upload(lab, DISK, offset=len(DISK))).inventory
        with monkeypatch.context() as patch:
            patch.setattr(lab.service.uploads, "_settle", asyncio.Event().wait)  # killed after the row was deleted
            deleting = lab.catalog.DeleteImage(catalog_pb2.DeleteImageRequest(uuid=image.uuid))
            await soon(lambda: images_are(lab, ["guest"]))
            deleting.cancel()
        assert files(tmp_path) == [f".upload-{digest(DISK)}.part", f"upload-{digest(DISK)}"]
        patch_time = time.time() + KEEP_SECONDS + 60
        monkeypatch.setattr(cases, "_seconds", lambda: patch_time)
        await soon(lambda: cleaned(lab, tmp_path))

        kept = (await upload(lab, DISK)).inventory
        os.link(tmp_path / "images" / f"upload-{digest(DISK)}", tmp_path / "images" / f".upload-{digest(DISK)}.part")
        mine = tmp_path / "images" / "mine.raw"
        mine.write_bytes(DISK)
        assert await cases.clean() == 1
        assert files(tmp_path) == ["mine.raw", f"upload-{digest(DISK)}"], "an image's file and an operator's stay"
        assert kept.sha256 == digest(mine.read_bytes())


async def cleaned(lab: Whole, directory: Path) -> bool:
    await lab.service.uploads.clean()
    return files(directory) == []


async def images_are(lab: Whole, names: list[str]) -> bool:
    listed = await lab.catalog.ListImages(catalog_pb2.ListImagesRequest())
    return [one.name for one in listed.inventories] == names


async def test_a_replica_without_the_files_says_so(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        await upload(lab, DISK, name="sent")
        await lab.service.uploads.compare()
        assert lab.service.uploads.notes == {}
        file = tmp_path / "images" / f"upload-{digest(DISK)}"
        file.rename(tmp_path / "elsewhere")
        await lab.service.uploads.compare()
        async with httpx.AsyncClient(base_url=f"http://{lab.http_address}", timeout=60) as http:
            told = (await http.get("/healthz")).json()
            assert (told["status"], "sent" in told["notes"]["images"]) == ("SERVING", True)
            assert "corral_image_files_missing 1.0" in (await http.get("/metrics")).text
        (tmp_path / "elsewhere").rename(file)
        await lab.service.uploads.compare()
        assert lab.service.uploads.notes == {}


# --- over HTTP -----------------------------------------------------------------------------------------------------


async def curl(*words: str) -> tuple[int, dict[str, Any]]:
    """(HTTP status, what it answered) of curl."""
    command = ("curl", "-s", "--noproxy", "*", "-w", "\n%{http_code}", *words)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    body, _, status = out.decode().rpartition("\n")
    return int(status), json.loads(body)


def bearer(role: str) -> tuple[str, str]:
    return ("-H", f"Authorization: Bearer {role}")


async def test_curl_uploads_and_goes_on_where_it_was(tmp_path: Path) -> None:
    file = tmp_path / "disk.raw"
    file.write_bytes(DISK * 1000)
    sum_of = digest(DISK * 1000)
    async with whole(tmp_path, config_text(extra=TOKENS)) as lab:
        url = f"http://{lab.http_address}/corral/v1/image-uploads/{sum_of}"
        target = f"{url}?name=sent&format=raw"
        for role in ("viewer", "operator"):
            assert (await curl(*bearer(role), "-T", str(file), target))[0] == 403
        assert files(tmp_path) == []
        part = ("-H", f"Content-Range: bytes 0-99999/{len(DISK) * 1000}", "--data-binary", "@-", "-X", "PUT")
        process = await asyncio.create_subprocess_exec(
            "curl", "-s", "--noproxy", "*", *bearer("admin"), *part, target,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await process.communicate(file.read_bytes()[:100_000])
        assert json.loads(out) == {"received": "100000"}
        status, told = await curl(*bearer("admin"), url)
        assert (status, told) == (200, {"received": "100000"})
        status, done = await curl(*bearer("admin"), "-C", told["received"], "-T", str(file), target)
        assert (status, done["inventory"]["name"], done["inventory"]["sha256"]) == (200, "sent", sum_of)
        assert (tmp_path / "images" / f"upload-{sum_of}").read_bytes() == file.read_bytes()


async def test_bad_uploads_over_http_are_refused_by_the_field(tmp_path: Path) -> None:
    path = f"/corral/v1/image-uploads/{digest(DISK)}"
    said_so = {"name": "sent", "format": "raw"}
    bad: list[tuple[str, dict[str, str], dict[str, str], str]] = [
        (path, {"format": "raw"}, {}, "name"),
        (path, {"name": "x"}, {}, "format"),
        (path, {**said_so, "colour": "red"}, {}, "colour"),
        (path, {**said_so, "data": "AAAA"}, {}, "data"),
        (path, {**said_so, "size": "many"}, {}, "size"),
        (path, {**said_so, "size": "1"}, {"content-range": f"bytes 0-{len(DISK) - 1}/{len(DISK)}"}, "size"),
        (path, said_so, {"content-range": "bytes */5"}, "offset"),
        (path, said_so, {"content-range": "bytes 5-1/9"}, "offset"),
        (path, said_so, {"content-range": "bytes 0-1/9"}, "offset"),
        (path, said_so, {"content-range": f"bytes 1-{len(DISK)}/{len(DISK) + 1}"}, "offset"),
        ("/corral/v1/image-uploads/short", said_so, {}, "sha256"),
    ]
    async with (
        whole(tmp_path, config_text()) as lab,
        httpx.AsyncClient(base_url=f"http://{lab.http_address}", timeout=60) as http,
    ):
        for where, parameters, headers, field in bad:
            answer = await http.put(where, params=parameters, headers=headers, content=DISK)
            assert answer.status_code == 400, (parameters, headers, answer.text)
            assert field in answer.text, (parameters, headers, answer.text)
        assert await images_are(lab, ["guest"])
        described = (await http.get("/openapi.json")).json()["paths"]["/corral/v1/image-uploads/{sha256}"]["put"]
        assert "application/octet-stream" in described["requestBody"]["content"]
        assert {p["name"] for p in described["parameters"]} >= {"sha256", "name", "format", "size", "offset"}
