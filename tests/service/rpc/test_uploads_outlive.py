"""Uploads beside what befalls a process: kill -9 in the middle, and another replica of the same database and store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import grpc
import pytest
from corral.v1 import catalog_pb2, catalog_pb2_grpc

from tests.service.rpc.lab import soon
from tests.service.rpc.test_catalog import create, refused
from tests.service.rpc.test_uploads import DISK, arrived, digest, free, messages, upload
from tests.support.postgres import Postgres
from tests.support.process import CONFIGURATION, CorralProcess
from tests.support.whole import config_text, whole


def test_an_upload_outlives_kill_9_of_the_service_and_leaves_one_file(tmp_path: Path) -> None:
    data = DISK * 500
    corral = CorralProcess(tmp_path, CONFIGURATION + '[identity]\nanonymous = "loopback"\n')
    corral.start()
    try:
        stub = catalog_pb2_grpc.CatalogServiceStub(corral.channel)
        asked = catalog_pb2.GetImageUploadRequest(sha256=digest(data))
        killed = Event()

        def half() -> Iterator[Any]:
            parts = messages(data, step=100_000)
            for _ in range(6):
                yield next(parts)
            killed.wait()

        call = stub.UploadImage.future(half())
        deadline = time.monotonic() + 60
        while stub.GetImageUpload(asked).received < 500_000:
            assert time.monotonic() < deadline
        corral.kill()
        killed.set()
        assert isinstance(call.exception(), grpc.RpcError)
        corral.start()
        stub = catalog_pb2_grpc.CatalogServiceStub(corral.channel)
        at = stub.GetImageUpload(asked).received
        assert at == 500_000
        image = stub.UploadImage(messages(data, step=100_000, offset=at)).inventory
        assert (image.sha256, image.size) == (digest(data), len(data))
        (left,) = (tmp_path / "images").iterdir()
        assert left.read_bytes() == data
    finally:
        corral.kill()


@pytest.mark.asyncio
async def test_replicas_that_share_the_store_go_on_with_each_others_uploads(
    tmp_path: Path, postgres: Postgres, database: str
) -> None:
    text = config_text(hosts=1, url=postgres.url(database))
    async with whole(tmp_path, text) as one, whole(tmp_path, text) as other:
        sent = asyncio.Event()

        async def broken() -> Any:
            parts = messages(DISK)
            for _ in range(3):
                yield next(parts)
            await sent.wait()

        call = one.catalog.UploadImage(broken())
        await soon(lambda: arrived(other, 2000), 60)
        await refused(upload(other, DISK, offset=2000), grpc.StatusCode.ABORTED, "CONFLICT")
        call.cancel()
        await soon(lambda: free(other), 60)
        image = (await upload(other, DISK, offset=2000)).inventory
        assert (await create(one, image_uuid=image.uuid)).image_uuid == image.uuid
        for replica in (one, other):
            await replica.service.uploads.compare()
            assert replica.service.uploads.notes == {}
