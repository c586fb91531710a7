"""Container images that no honest program makes, from a web server that answers as a registry does; and calls that are
broken off."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
import zstandard
from corral.v1 import catalog_pb2, catalog_pb2_grpc

from service.app.layer_files import Layer
from service.app.layers import RESERVED
from service.app.unpacking import Order
from service.config.file import ConfigError, parse
from tests.service.rpc.lab import soon
from tests.service.rpc.test_catalog import create, refused
from tests.service.rpc.test_container_images import GUEST, LOOPBACK, asked, guest, imported, listed, text
from tests.service.rpc.test_uploads import INVALID, files
from tests.support.process import CONFIGURATION, CorralProcess
from tests.support.registry import require, run
from tests.support.source import Source, source
from tests.support.whole import whole

CAPABILITY = struct.pack("<5I", 0x02000000, 1 << 10, 0, 0, 0)  # cap_net_bind_service, linux/capability.h


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def archive(*members: tuple[str, bytes, Mapping[str, Any]]) -> bytes:
    """A tar of (name, content, more of its header)."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as made:
        for name, content, more in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in more.items():
                setattr(info, key, value)
            made.addfile(info, io.BytesIO(content))
    return data.getvalue()


def served(there: Source, layers: Sequence[bytes], **more: Any) -> str:
    """Puts an image of these plain layers there; how it is asked for. `more`: its configuration's fields; `contents`:
    what that says of the layers; `zstd`: what packs them, in place of gzip."""
    contents, zstd = more.pop("contents", layers), more.pop("zstd", None)
    config = {"os": "linux", "architecture": "amd64", "config": {"Cmd": ["/run"]}}
    config |= {"rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha(one)}" for one in contents]}, **more}
    packed = [zstd(layer) if zstd else gzip.compress(layer, mtime=0) for layer in layers]
    blobs = [json.dumps(config).encode(), *packed]
    parts = [{"digest": f"sha256:{sha(blob)}", "size": len(blob)} for blob in blobs]
    for part in parts[1:]:
        part["mediaType"] = f"application/vnd.oci.image.layer.v1.tar+{'zstd' if zstd else 'gzip'}"
    parts[0]["mediaType"] = "application/vnd.oci.image.config.v1+json"
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json"}
    document = json.dumps({**manifest, "config": parts[0], "layers": parts[1:]}).encode()
    there.files |= {f"/v2/model/blobs/sha256:{sha(blob)}": blob for blob in blobs}
    return put(there, document)


def put(there: Source, document: bytes) -> str:
    there.files[f"/v2/model/manifests/sha256:{sha(document)}"] = document
    there.files["/v2/"] = b"{}"
    return f"oci+http://127.0.0.1:{there.port}/model@sha256:{sha(document)}"


def in_two_frames(layer: bytes) -> bytes:
    """As builders write who want to read parts of it: several frames, and others that hold no data."""
    nothing = struct.pack("<II", 0x184D2A50, 7) + b"no data"
    half = len(layer) // 2
    return zstandard.compress(layer[:half]) + nothing + zstandard.compress(layer[half:]) + nothing


def remembers_too_much(layer: bytes) -> bytes:
    """Whoever reads it has to keep 256 MiB."""
    wide = zstandard.ZstdCompressionParameters.from_level(3, window_log=28)
    made = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    return made.compress(layer) + made.flush()


FILE = ("run", b"#!/bin/sh\n", {"mode": 0o755})


@pytest.fixture
def forged() -> Iterator[Source]:
    require("sqfstar")
    with source() as running:
        yield running


@pytest.mark.asyncio
async def test_broken_and_hostile_images_are_refused_by_name_and_leave_nothing(tmp_path: Path, forged: Source) -> None:
    good = archive(FILE)
    bomb = archive(("zeros", bytes(8 << 20), {}))
    broken = bytearray(archive(FILE, ("second", b"", {})))
    broken[1024:1536] = b"\xff" * 512
    damaged = served(forged, [archive(("damaged", b"x", {}))])
    blob = next(path for path in forged.files if "/blobs/" in path and forged.files[path][:2] == b"\x1f\x8b")
    forged.files[blob] = forged.files[blob][:4] + b"\1" + forged.files[blob][5:]  # as well packed, at another time
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json"}
    arm = {"digest": f"sha256:{'1' * 64}", "size": 1, "platform": {"os": "linux", "architecture": "arm64"}}
    other = {"schemaVersion": 2, "layers": [], "config": {"mediaType": "application/vnd.cncf.helm.config.v1+json"}}
    link = {"type": tarfile.LNKTYPE, "linkname": "../../etc/shadow"}
    absent = {"type": tarfile.LNKTYPE, "linkname": "etc/shadow"}
    bad = [
        (damaged, "layer 1 is not the one that its manifest names"),
        (served(forged, [archive(("../../etc/passwd", b"x", {}))]), "leads out of the image"),
        (served(forged, [archive(("a/../../x", b"x", {}))]), "leads out of the image"),
        (served(forged, [archive(("x", b"", link))]), "leads out of the image"),
        (served(forged, [archive(("x", b"", absent))]), "a link to a file that is not there"),
        (served(forged, [archive(FILE, ("run/x", b"x", {}))]), "which is a file"),
        (served(forged, [bomb]), "unpacks to more than 4194304 bytes"),
        (served(forged, [bytes(broken)]), "layer 1 cannot be unpacked"),
        (served(forged, [good[:515]]), "layer 1 cannot be unpacked"),
        (served(forged, [b"no archive" * 1000]), "layer 1 cannot be unpacked"),
        (served(forged, [bomb], zstd=zstandard.compress), "unpacks to more than 4194304 bytes"),
        (served(forged, [good], zstd=lambda layer: layer), "layer 1 cannot be unpacked"),
        (served(forged, [good], zstd=lambda layer: zstandard.compress(layer)[:-40]), "layer 1 cannot be unpacked"),
        (served(forged, [good], zstd=remembers_too_much), "layer 1 cannot be unpacked"),
        (served(forged, [good], contents=[bomb]), "does not hold what the image's configuration says"),
        (served(forged, [good], contents=[good, good]), "does not name the contents of its layers"),
        (served(forged, [good], architecture="arm64"), "is for linux/arm64"),
        (served(forged, [good], os="windows"), "is for windows/amd64"),
        (served(forged, [good], config={"User": "nobody-knows"}), "whom its /etc/passwd does not have"),
        (served(forged, [good], config={"Cmd": ["a" * 9000]}), "a start command of more than"),
        (put(forged, json.dumps({**index, "manifests": [arm]}).encode()), "linux/amd64: it has linux/arm64"),
        (put(forged, json.dumps(other).encode()), "vnd.cncf.helm.config.v1"),
        (put(forged, b"<html>"), "something else than a manifest"),
    ]
    spoilt = served(forged, [good], os="linux", author="x")
    forged.files[f"/v2/model/manifests/{spoilt.partition('@')[2]}"] += b" "
    bad.append((spoilt, "something else than sha256:"))
    async with whole(tmp_path, text(tmp_path, 'max_unpacked_size = "4MiB"\n')) as lab:
        for url, words in bad:
            error = await refused(imported(lab, asked(url)), *INVALID, "url")
            assert words in str(error.trailing_metadata()) + (error.details() or ""), (words, error.details())
            assert files(tmp_path) == [], words
        assert not (tmp_path / "etc").exists()


@pytest.mark.asyncio
async def test_links_stay_in_the_image_and_devices_are_left_out(tmp_path: Path, forged: Source) -> None:
    """Names through links, also absolute ones, are places of the image; layers hide what is below them and not what
    they bring; hard links keep what their name had; extended attributes are kept; an index leads to these hosts' image.
    """
    lowest = archive(
        ("usr/bin", b"", {"type": tarfile.DIRTYPE, "mode": 0o755}),
        ("bin", b"", {"type": tarfile.SYMTYPE, "linkname": "/usr/bin"}),
        ("up", b"", {"type": tarfile.SYMTYPE, "linkname": "../../../../usr"}),
        ("bin/tool", b"tool", {"mode": 0o755, "pax_headers": {"SCHILY.xattr.user.model": "yes"}}),
        ("up/deep", b"deep", {}),
        ("one", b"first", {}),
        ("dir/below", b"below", {}),
        ("dev/sda", b"", {"type": tarfile.BLKTYPE, "devmajor": 8}),
        ("pipe", b"", {"type": tarfile.FIFOTYPE}),
        (f"{RESERVED}/user", b"0", {}),
    )
    middle = archive(
        ("two", b"", {"type": tarfile.LNKTYPE, "linkname": "one"}),
        ("dir/.wh..wh..opq", b"", {}),
        ("dir/above", b"above", {}),
        (".wh.pipe", b"", {}),
        ("pipe", b"a file by now", {}),
    )
    upper = archive(("one", b"second", {"uid": 70000, "gid": 5}))
    url = served(forged, [lowest, middle, upper], config={"User": "4321:99"})
    inner = url.partition("@sha256:")[2]
    platforms = [("arm64", "1" * 64), ("amd64", inner)]
    listing = [
        {"digest": f"sha256:{digest}", "size": 1, "platform": {"os": "linux", "architecture": name}}
        for name, digest in platforms
    ]
    url = put(forged, json.dumps({"schemaVersion": 2, "manifests": listing}).encode())
    async with whole(tmp_path, text(tmp_path)) as lab:
        told = (await imported(lab, asked(url)))[-1].inventory
        assert told.container_digest == url.partition("@sha256:")[2]
        disk = Path((await lab.service.catalog.get_image(told.uuid)).image.disk_path)
        here = listed(disk)
        assert "/usr/bin/tool" in here
        assert "/usr/deep" in here
        assert here["/one"] == "-rw-r--r-- 70000/5"
        assert ("/dir/above" in here, "/dir/below" in here) == (True, False)
        assert not [mode for mode in here.values() if mode[0] in "bc"]
        unpacked = tmp_path / "unpacked"
        run("unsquashfs", "-quiet", "-no-progress", "-d", unpacked, disk)
        try:
            assert (unpacked / "one").read_text() == "second"
            assert (unpacked / "two").read_text() == "first"
            assert stat.S_ISREG((unpacked / "pipe").stat().st_mode)
            assert os.getxattr(unpacked / "usr/bin/tool", "user.model") == b"yes"
            assert (unpacked / RESERVED / "user").read_text() == "4321:99"
            assert "corral-4321:x:4321:0:" in (unpacked / "etc/passwd").read_text()
        finally:
            shutil.rmtree(unpacked)


@pytest.mark.asyncio
async def test_layers_of_zstd_in_several_frames_are_the_same_disk(tmp_path: Path, forged: Source) -> None:
    layers = [archive(FILE, ("large", os.urandom(3 << 20), {})), archive(("second", b"2", {}))]
    async with whole(tmp_path, text(tmp_path)) as lab:
        made = [
            (await imported(lab, asked(served(forged, layers, zstd=how), name=name)))[-1].inventory
            for name, how in (("gzip", None), ("zstd", in_two_frames))
        ]
        assert made[0].container_digest != made[1].container_digest
        assert made[0].sha256 == made[1].sha256


@pytest.mark.asyncio
async def test_a_file_s_capabilities_come_through(tmp_path: Path, forged: Source) -> None:
    binary = CAPABILITY.decode("utf-8", "surrogateescape")
    tool = ("tool", b"tool", {"pax_headers": {"SCHILY.xattr.security.capability": binary}})
    async with whole(tmp_path, text(tmp_path)) as lab:
        told = (await imported(lab, asked(served(forged, [archive(tool)]))))[-1].inventory
        disk = Path((await lab.service.catalog.get_image(told.uuid)).image.disk_path)
        unpacked = tmp_path / "unpacked"
        if os.geteuid():
            pytest.skip("only root may give a file capabilities, here to compare them")
        run("unsquashfs", "-quiet", "-no-progress", "-d", unpacked, disk)
        assert os.getxattr(unpacked / "tool", "security.capability") == CAPABILITY


@pytest.mark.asyncio
async def test_tokens_are_fetched_where_the_registry_says(tmp_path: Path, forged: Source) -> None:
    url = served(forged, [archive(FILE)])
    token = json.dumps({"token": "t0ken"}).encode()
    asks = f"/token?scope={'repository%3Amodel%3Apull'}&service=lab"
    forged.files[asks] = token
    forged.headers = {"WWW-Authenticate": f'Bearer realm="http://127.0.0.1:{forged.port}/token",service="lab"'}
    forged.statuses["/v2/"] = [401] * 20
    async with whole(tmp_path, text(tmp_path)) as lab:
        assert (await imported(lab, asked(url)))[-1].inventory.format == "container"
        shown = {path: secret for path, _, secret in forged.asked}
        assert shown[asks] == ""
        assert {shown[path] for path in shown if path.startswith("/v2/model/")} == {"Bearer t0ken"}
        forged.files[asks] = b"{}"
        error = await refused(imported(lab, asked(url, name="again")), *INVALID, "url")
        assert "gives no token" in str(error.trailing_metadata()) + (error.details() or "")


def test_kill_9_in_the_middle_leaves_no_process_and_the_same_call_goes_on(tmp_path: Path, forged: Source) -> None:
    url = served(forged, [archive(("blob", os.urandom(64 << 10), {}))])
    (blob,) = [path for path in forged.files if "/blobs/" in path and forged.files[path][:2] == b"\x1f\x8b"]
    half = len(forged.files[blob]) // 2
    guest(tmp_path)
    configuration = (
        CONFIGURATION
        + f'[identity]\nanonymous = "loopback"\n[catalog]\nimage_directory = "images"\n{LOOPBACK}'
        + GUEST.format(tmp_path)
    )
    corral = CorralProcess(tmp_path, configuration)
    corral.start()
    try:
        stuck = threading.Event()
        sent: list[int] = []

        def gate(count: int) -> None:
            sent.append(count)
            if count >= half:
                stuck.wait(60)

        forged.gate = gate
        stub = catalog_pb2_grpc.CatalogServiceStub(corral.channel)
        for step in stub.ImportImage(asked(url)):
            if step.received >= half:
                break
        corral.kill()
        stuck.set()
        forged.gate = lambda count: None
        corral.start()
        stub = catalog_pb2_grpc.CatalogServiceStub(corral.channel)
        *_, last = stub.ImportImage(asked(url))
        assert last.inventory.format == "container"
        assert [first for path, first, _ in forged.asked if path == blob][-1] >= half, (
            "what had come was not asked again"
        )
        assert not [path.name for path in (tmp_path / "images").iterdir() if path.name.startswith(".")]
    finally:
        corral.kill()


@pytest.mark.asyncio
async def test_a_call_that_is_left_ends_its_process(
    tmp_path: Path, forged: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[asyncio.subprocess.Process] = []
    real = asyncio.create_subprocess_exec

    async def watched(*words: Any, **more: Any) -> Any:
        process = await real(*words, **more)
        seen.append(process)
        process.send_signal(signal.SIGSTOP)  # it does not get on
        return process

    url = served(forged, [archive(FILE)])
    async with whole(tmp_path, text(tmp_path)) as lab:
        monkeypatch.setattr(asyncio, "create_subprocess_exec", watched)
        call = lab.catalog.ImportImage(asked(url))

        async def begun() -> bool:
            return bool(seen)

        reader = asyncio.create_task(call.read())
        await soon(begun, 60)
        await refused(imported(lab, asked(url)), grpc.StatusCode.ABORTED, "CONFLICT")
        call.cancel()
        with suppress(asyncio.CancelledError):
            await reader

        async def gone() -> bool:
            return not any(process.returncode is None for process in seen)

        await soon(gone, 60)
        monkeypatch.undo()

        async def let_in() -> bool:
            with suppress(grpc.aio.AioRpcError):
                return bool((await imported(lab, asked(url)))[-1].inventory.uuid)
            return False

        await soon(let_in, 60)


def test_the_process_ends_with_whoever_started_it(tmp_path: Path) -> None:
    """Its input's end is all that a service that was killed leaves."""
    require("sqfstar")
    output = tmp_path / "out"
    output.touch()
    fifo = tmp_path / "layer"
    os.mkfifo(fifo)
    order = Order([Layer(str(fifo), "0" * 64, "", "0" * 64)], str(output), 1000, 1000, 60)
    process = subprocess.Popen(
        [sys.executable, "-m", "service.app.unpacking"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        cwd=Path(__file__).parents[3],
    )
    assert process.stdin is not None
    process.stdin.write(f"{order.text()}\n".encode())
    process.stdin.flush()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.stdin.close()
    assert process.wait(60) == -9


@pytest.mark.asyncio
async def test_an_image_that_names_no_command_needs_one(tmp_path: Path, forged: Source) -> None:
    url = served(forged, [archive(FILE)], config={})
    async with whole(tmp_path, text(tmp_path)) as lab:
        told = (await imported(lab, asked(url)))[-1].inventory
        assert list(told.container_command) == []
        await refused(create(lab, image_uuid=told.uuid), *INVALID, "initial_command")
        made = await create(lab, image_uuid=told.uuid, initial_command="/run")
        change = catalog_pb2.UpdateModelServiceRequest(uuid=made.uuid)
        change.update_mask.paths.append("initial_command")
        await refused(lab.catalog.UpdateModelService(change), *INVALID, "initial_command")
        assert (await create(lab, image_uuid=told.uuid, framework="vllm")).image_uuid == told.uuid


@pytest.mark.parametrize(
    ("name", "words"),
    [("nobody", "no image 'nobody'"), ("guest", "image 'guest' has no kernel with an initial RAM disk")],
)
def test_the_guest_of_the_configuration_is_an_image_with_a_kernel(tmp_path: Path, name: str, words: str) -> None:
    wrong = text(tmp_path).replace('container_guest = "container-guest"', f'container_guest = "{name}"')
    with pytest.raises(ConfigError, match=f"catalog.container_guest: {words}"):
        parse(wrong, tmp_path)
