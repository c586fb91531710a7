"""Images that come by URL: fetched as an upload that the service sends itself, gone on with, and no secret told."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from corral.v1 import catalog_pb2, catalog_pb2_grpc, secret_pb2

from service.app import imports
from tests.service.rpc.lab import soon
from tests.service.rpc.test_catalog import qcow2, refused
from tests.service.rpc.test_uploads import DISK, INVALID, TOKENS, bearer, curl, digest, files, received, upload
from tests.support.postgres import Postgres
from tests.support.process import CONFIGURATION, CorralProcess
from tests.support.secrets import a_key
from tests.support.source import Source, source
from tests.support.whole import Whole, config_text, whole

LOOPBACK = 'import_networks = ["127.0.0.0/8"]\n'
BIG = DISK * 10


def text(extra: str = "", **more: Any) -> str:
    return config_text(**more).replace("[catalog]\n", f"[catalog]\n{LOOPBACK}{extra}")


@pytest.fixture
def mirror() -> Iterator[Source]:
    with source() as running:
        running.files = {"/disk": BIG, "/small": DISK}
        yield running


def asked(mirror: Source, path: str = "/disk", data: bytes = BIG, **fields: Any) -> catalog_pb2.ImportImageRequest:
    said = {"url": mirror.url(path), "sha256": digest(data), "name": "fetched", "format": "raw", **fields}
    return catalog_pb2.ImportImageRequest(**said)


def held_from(count: int, until: threading.Event) -> Callable[[int], None]:
    """A server that stops after so many bytes of a body, until the event."""

    def gate(sent: int) -> None:
        if sent >= count:
            until.wait(60)

    return gate


async def imported(lab: Whole, request: catalog_pb2.ImportImageRequest) -> list[Any]:
    return [step async for step in lab.catalog.ImportImage(request)]


@pytest.mark.asyncio
async def test_what_is_fetched_is_an_image_like_any_other_and_told_as_it_comes(
    tmp_path: Path, mirror: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "STEP_SECONDS", 0.02)
    seen, half = threading.Event(), len(BIG) // 2
    mirror.gate = held_from(half, seen)
    async with whole(tmp_path, text()) as lab:
        steps = []
        async for step in lab.catalog.ImportImage(asked(mirror, request_id="one")):
            steps.append(step)
            if step.size and step.received >= half - 1000 and step.bytes_per_second and not step.done:
                seen.set()
        (told,) = [s for s in steps if s.done]
        assert steps[-1] == told
        image = told.inventory
        assert (image.name, image.format, image.size, image.sha256) == ("fetched", "raw", len(BIG), digest(BIG))
        middle = [s for s in steps if s.bytes_per_second and 0 < s.received < s.size == len(BIG)]
        assert middle
        assert middle[-1].remaining_ms > 0
        assert (told.received, told.size, told.remaining_ms) == (len(BIG), len(BIG), 0)
        assert [s.received for s in steps] == sorted(s.received for s in steps)
        assert (tmp_path / "images" / f"upload-{digest(BIG)}").read_bytes() == BIG
        assert files(tmp_path) == [f"upload-{digest(BIG)}"]
        asked_for = len(mirror.asked)
        again = await imported(lab, asked(mirror, request_id="one", url=mirror.url("/signed?t=2")))
        assert again[-1].inventory == image, "the same request, however its URL is signed today"
        other = await imported(lab, asked(mirror, name="other"))
        assert other[-1].inventory.uuid != image.uuid
        assert len(mirror.asked) == asked_for, "what is here is not fetched again"
        await lab.catalog.DeleteImage(catalog_pb2.DeleteImageRequest(uuid=image.uuid))
        await lab.catalog.DeleteImage(catalog_pb2.DeleteImageRequest(uuid=other[-1].inventory.uuid))
        assert files(tmp_path) == []


@pytest.mark.asyncio
async def test_kernels_find_their_initrd_and_a_disk_shows_its_format(tmp_path: Path, mirror: Source) -> None:
    mirror.files |= {"/linux": b"kernel" * 100, "/initrd": b"memory" * 100, "/cloud.img": qcow2()}
    async with whole(tmp_path, text()) as lab:
        first = await imported(lab, asked(mirror, "/initrd", mirror.files["/initrd"], format="initrd"))
        assert (first[-1].done, first[-1].HasField("inventory")) == (True, False)
        linux = {"format": "kernel", "initrd_sha256": digest(mirror.files["/initrd"]), "kernel_arguments": "quiet"}
        linux |= {"delivery": "nocloud"}
        image = (await imported(lab, asked(mirror, "/linux", mirror.files["/linux"], **linux)))[-1].inventory
        assert (image.format, image.initrd_sha256) == ("kernel", digest(mirror.files["/initrd"]))
        stored = (await lab.service.catalog.get_image(image.uuid)).image
        assert (stored.kernel_arguments, stored.delivery) == ("quiet", "nocloud")
        disk = (await imported(lab, asked(mirror, "/cloud.img", qcow2(), format="")))[-1].inventory
        assert disk.format == "qcow2"
        assert (await imported(lab, asked(mirror, "/small", DISK, format="")))[-1].inventory.format == "raw"


@pytest.mark.asyncio
async def test_what_is_wrong_is_told_by_its_field_and_leaves_no_image(tmp_path: Path, mirror: Source) -> None:
    mirror.files |= {"/packed": b"\x1f\x8b" + DISK, "/backed": qcow2(backing=104), "/huge": bytes((1 << 20) + 1)}
    mirror.redirects["/inward"] = "http://169.254.169.254/latest"
    bad: list[tuple[dict[str, Any], str]] = [
        ({"url": ""}, "url"),
        ({"url": "file:///etc/passwd"}, "url"),
        ({"url": "http://a\nb/"}, "url"),
        ({"url": "http://h/" + "a" * 2048}, "url"),
        ({"url": mirror.url("/none")}, "url"),
        ({"url": mirror.url("/inward")}, "url"),
        ({"url": mirror.url("/packed"), "sha256": digest(mirror.files["/packed"])}, "url"),
        ({"url": mirror.url("/backed"), "sha256": digest(mirror.files["/backed"]), "format": ""}, "url"),
        ({"url": mirror.url("/huge"), "sha256": digest(mirror.files["/huge"])}, "url"),
        ({"sha256": ""}, "sha256"),
        ({"sha256": "0"}, "sha256"),
        ({"sha256": "0" * 64}, "sha256"),
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"format": "iso"}, "format"),
        ({"format": "qcow2"}, "url"),
        ({"initrd_sha256": "0" * 64}, "initrd_sha256"),
        ({"format": "kernel", "initrd_sha256": "0" * 64}, "initrd_sha256"),
        ({"resource_uuid": "x"}, "resource_uuid"),
        ({"request_id": "a b"}, "request_id"),
        ({"kernel_arguments": "quiet"}, "kernel_arguments"),
        ({"delivery": "pigeon"}, "delivery"),
        ({"format": "initrd", "delivery": "nocloud"}, "delivery"),
    ]
    async with whole(tmp_path, text('max_upload_size = "1MiB"\n')) as lab:
        for fields, field in bad:
            await refused(imported(lab, asked(mirror, "/small", DISK, **fields)), *INVALID, field)
            assert [f for f in files(tmp_path) if not f.startswith(".")] == [], fields
        made = (await imported(lab, asked(mirror, "/small", DISK, request_id="one")))[-1].inventory
        reused = asked(mirror, request_id="one")
        await refused(imported(lab, reused), INVALID[0], "REQUEST_ID_REUSED", "request_id")
        taken = asked(mirror, resource_uuid=made.uuid)
        await refused(imported(lab, taken), grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")
    async with whole(tmp_path, config_text()) as lab:
        error = await refused(imported(lab, asked(mirror)), *INVALID, "url")
        assert "may not be fetched from" in (error.details() or ""), "nobody has allowed loopback"


@pytest.mark.asyncio
async def test_time_is_bounded_and_what_has_come_is_gone_on_with(tmp_path: Path, mirror: Source) -> None:
    stuck = threading.Event()
    mirror.gate = held_from(5000, stuck)
    try:
        async with whole(tmp_path, text("max_import_ms = 5000\n")) as lab:
            error = await refused(imported(lab, asked(mirror)), grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
            assert "catalog.max_import_ms" in (error.details() or "")
            assert await received(lab, BIG) == 5000
        async with whole(tmp_path, text()) as lab:
            stuck.set()
            assert (await imported(lab, asked(mirror)))[-1].inventory.size == len(BIG)
            assert [first for _, first, _ in mirror.asked] == [0, 5000]
    finally:
        stuck.set()


@pytest.mark.asyncio
async def test_an_import_and_an_upload_go_on_with_each_other(tmp_path: Path, mirror: Source) -> None:
    async with whole(tmp_path, text()) as lab:
        part = catalog_pb2.UploadImageRequest(
            name="x", format="raw", size=len(BIG), sha256=digest(BIG), data=BIG[:7000]
        )
        assert (await lab.catalog.UploadImage(iter([part]))).received == 7000
        assert (await imported(lab, asked(mirror)))[-1].inventory.sha256 == digest(BIG)
        assert [first for _, first, _ in mirror.asked] == [7000]
        (await upload(lab, DISK))
        assert (await imported(lab, asked(mirror, "/small", DISK)))[-1].inventory.size == len(DISK)
        assert len(mirror.asked) == 1


@pytest.mark.asyncio
async def test_no_secret_of_a_url_is_told_or_logged(
    tmp_path: Path, mirror: Source, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "n0nce-of-a-signature"
    mirror.files[f"/small?sig={secret}"] = DISK
    mirror.redirects["/moved"] = f"/small?sig={secret}"
    mirror.statuses["/moved"] = [503]
    told = []
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("httpx").setLevel(logging.WARNING)  # as the service sets it
        logging.getLogger("httpcore").setLevel(logging.WARNING)
        async with whole(tmp_path, text()) as lab:
            for url in (
                mirror.url("/moved", user=f"me:{secret}"),
                mirror.url(f"/none?sig={secret}", user=f"me:{secret}"),
                f"http://127.0.0.1:1/{secret}",
            ):
                try:
                    told += [str(step) for step in await imported(lab, asked(mirror, data=DISK, url=url))]
                except grpc.aio.AioRpcError as error:
                    told.append(f"{error.details()} {error.trailing_metadata()}")
            async with httpx.AsyncClient(base_url=f"http://{lab.http_address}", timeout=60) as http:
                told.append((await http.get("/metrics")).text)
                told.append((await http.get("/corral/v1/audit-events")).text)
    assert "ImportImage" in told[-1]
    assert not [line for line in (*told, caplog.text) if secret in line]


@pytest.mark.asyncio
async def test_over_http_it_is_a_stream_of_events_for_administrators(tmp_path: Path, mirror: Source) -> None:
    async with whole(tmp_path, text() + TOKENS) as lab:
        url = f"http://{lab.http_address}/corral/v1/images:import"
        body = json.dumps({"url": mirror.url("/disk"), "sha256": digest(BIG), "name": "fetched"})
        say = ("-H", "content-type: application/json", "-d", body)
        for role in ("viewer", "operator"):
            assert (await curl(*bearer(role), *say, url))[0] == 403
        assert not mirror.asked
        wrong = ("-H", "content-type: application/json", "-d", body.replace("http:", "gopher:"))
        status, problem = await curl(*bearer("admin"), *wrong, url)
        assert (status, "url" in json.dumps(problem)) == (400, True)
        process = await asyncio.create_subprocess_exec(
            "curl", "-s", "--noproxy", "*", *bearer("admin"), *say, url, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        events = [json.loads(line[5:]) for line in out.decode().splitlines() if line.startswith("data:")]
        (last,) = [event for event in events if event.get("done")]
        assert last["inventory"]["sha256"] == digest(BIG)


def test_an_import_outlives_kill_9_of_the_service(tmp_path: Path, mirror: Source) -> None:
    stuck = threading.Event()
    mirror.gate = held_from(9000, stuck)
    configuration = CONFIGURATION + f'[identity]\nanonymous = "loopback"\n[catalog]\n{LOOPBACK}'
    corral = CorralProcess(tmp_path, configuration)
    corral.start()
    try:
        stub = catalog_pb2_grpc.CatalogServiceStub(corral.channel)
        for step in stub.ImportImage(asked(mirror)):
            if step.received == 9000:
                break
        corral.kill()
        stuck.set()
        corral.start()
        stub = catalog_pb2_grpc.CatalogServiceStub(corral.channel)
        *_, last = stub.ImportImage(asked(mirror))
        assert last.inventory.sha256 == digest(BIG)
        assert [first for _, first, _ in mirror.asked] == [0, 9000]
        (left,) = (tmp_path / "images").iterdir()
        assert left.read_bytes() == BIG
    finally:
        stuck.set()
        corral.kill()


@pytest.mark.asyncio
async def test_another_replica_goes_on_with_it(
    tmp_path: Path, mirror: Source, postgres: Postgres, database: str
) -> None:
    stuck = threading.Event()
    mirror.gate = held_from(9000, stuck)
    configuration = text(hosts=1, url=postgres.url(database))
    try:
        async with whole(tmp_path, configuration) as one, whole(tmp_path, configuration) as other:
            call = one.catalog.ImportImage(asked(mirror))

            async def came() -> bool:
                return await received(other, BIG) == 9000

            await soon(came, 60)
            await refused(imported(other, asked(mirror)), grpc.StatusCode.ABORTED, "CONFLICT")
            call.cancel()
            stuck.set()

            async def let_in() -> bool:
                with suppress(grpc.aio.AioRpcError):
                    return bool((await imported(other, asked(mirror)))[-1].inventory.uuid)
                return False

            await soon(let_in, 60)
            assert min(first for _, first, _ in mirror.asked[1:]) == 9000, "what was here was not fetched again"
    finally:
        stuck.set()


@pytest.mark.asyncio
async def test_who_asks_is_shown_by_a_secret_of_the_project(tmp_path: Path, mirror: Source) -> None:
    config = text(extra="") + a_key(tmp_path)
    async with whole(tmp_path, config) as lab:
        for name, value in (("mirror", "me:pass:word"), ("token", "no-colon")):
            await lab.secrets.CreateSecret(secret_pb2.CreateSecretRequest(name=name, value=value))
        for said, words in (
            ("me:pass", "secret://NAME"),
            ("secret://", "secret://NAME"),
            ("secret://token", "token has no colon"),
        ):
            error = await refused(imported(lab, asked(mirror, credentials=said)), *INVALID, "credentials")
            assert words in str(error.trailing_metadata()) + (error.details() or "")
        missing = imported(lab, asked(mirror, credentials="secret://absent"))
        error = await refused(missing, grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
        assert "credentials: no secret absent" in (error.details() or "")
        twice = catalog_pb2.ImportImageRequest(
            url=mirror.url("/disk", user="a:b"), sha256=digest(BIG), name="x", credentials="secret://mirror"
        )
        await refused(imported(lab, twice), *INVALID, "credentials")
        assert mirror.asked == [], "nobody was asked"
        steps = await imported(lab, asked(mirror, credentials="secret://mirror"))
        assert steps[-1].done
        expected = "Basic " + base64.b64encode(b"me:pass:word").decode()
        assert {secret for _, _, secret in mirror.asked} == {expected}
        assert "pass:word" not in "".join(map(str, steps))
