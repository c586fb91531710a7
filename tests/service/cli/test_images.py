"""`corral image` on the whole service: what is sent is there, and what broke off is gone on with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import catalog_pb2

from service.cli import errors, images
from tests.service.cli.test_on_a_service import corral
from tests.support.whole import config_text, whole

TOKEN = '\n[[tokens]]\nname = "root"\nsha256 = "{}"\nrole = "admin"\n[identity]\nanonymous = "nobody"\n'


class Lost(grpc.RpcError):
    """What a client sees where the service is gone."""

    def code(self) -> grpc.StatusCode:
        """Of a connection that is lost."""
        return grpc.StatusCode.UNAVAILABLE


class Flaky:
    """A service that is lost after every third message, and keeps what it got."""

    def __init__(self) -> None:
        self.got = b""
        self.calls: list[tuple[int, str]] = []

    def GetImageUpload(self, _request: Any) -> Any:  # noqa: N802
        """So much is here."""
        return catalog_pb2.GetImageUploadResponse(received=len(self.got))

    def UploadImage(self, requests: Iterator[Any]) -> Any:  # noqa: N802
        """Takes three messages."""
        first = next(requests)
        self.calls.append((first.offset, first.request_id))
        for count, part in enumerate(requests, 1):
            self.got += part.data
            if count == 3:
                raise Lost
        return catalog_pb2.UploadImageResponse(received=len(self.got))


def test_an_upload_goes_on_where_the_connection_broke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_PART", 100)
    monkeypatch.setattr(images, "_PAUSE_SECONDS", 0.0)
    file = tmp_path / "disk"
    file.write_bytes(bytes(range(250)) * 4)
    service = Flaky()
    request = images._measured(file, catalog_pb2.UploadImageRequest(name="disk", request_id="one"))
    sent = images._sent(service, request, file)  # type: ignore[arg-type]  # what it calls of a stub
    assert service.got == file.read_bytes()
    assert service.calls == [(0, "one"), (300, "one"), (600, "one"), (900, "one")]
    assert sent.answer.received == 1000


def test_progress_tells_how_much_how_fast_and_how_long(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    progress = images.Progress("disk.raw", 400 << 20, lambda: now)
    progress.at(0)
    now = 10.0
    progress.at(100 << 20)
    progress.end()
    assert capsys.readouterr().err == "disk.raw: 100 MiB of 400 MiB (25 %), 10 MiB/s, 30 s left\n"


@pytest.mark.asyncio
async def test_a_kernel_with_its_initrd_is_uploaded_listed_and_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("vmlinuz", "initrd.img"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
    monkeypatch.setenv("CORRAL_TOKEN", "of-root")
    text = config_text(1, extra=TOKEN.format(hashlib.sha256(b"of-root").hexdigest()))
    async with whole(tmp_path, text) as lab:
        files = (str(tmp_path / "vmlinuz"), "--format", "kernel", "--initrd", str(tmp_path / "initrd.img"))
        code, said, wrong = await corral(lab, "image", "upload", *files, "--name", "own", "--output", "json")
        assert code == errors.OK, wrong
        assert '"format": "kernel"' in said
        code, said, _ = await corral(lab, "images")
        assert "own" in said
        assert (await corral(lab, "image", "upload", *files[:1], "--initrd", files[-1]))[0] == errors.USAGE
        code, _, wrong = await corral(lab, "image", "upload", files[0], "--format", "qcow2")
        assert code == errors.USAGE
        assert "is not a qcow2 disk" in wrong
        assert (await corral(lab, "image", "delete", "own"))[0] == errors.OK
        assert sorted(file.name for file in (tmp_path / "images").iterdir()) == []
