"""Container images by digest, from Debian's docker-registry: pulled, unpacked without leaving a trace, made a disk."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import catalog_pb2, secret_pb2

from service.app.layers import RESERVED
from tests.service.rpc.test_catalog import refused
from tests.service.rpc.test_uploads import INVALID, files
from tests.support.registry import Registry, image, registry, run
from tests.support.secrets import a_key
from tests.support.whole import Whole, config_text, whole

LOOPBACK = 'import_networks = ["127.0.0.0/8"]\ncontainer_guest = "container-guest"\n'
GUEST = '[[images]]\nname = "container-guest"\nkernel = "{0}/vmlinuz"\ninitrd = "{0}/initrd.img"\n'
PASSWORD = "c4nary-of-a-registry"
ACCOUNT = "me:$2b$04$scfjFyztnJC61C4thXw3duHyN3IE5sNUAYF/IEPjFQxUmqym./7bS\n"  # bcrypt of it


def guest(directory: Path, first_files: bytes = b"...etc/corral/container.sh...") -> None:
    """What stands for the default guest's files: it is booted by tests/integration."""
    (directory / "vmlinuz").write_bytes(b"kernel" * 100)
    (directory / "initrd.img").write_bytes(gzip.compress(first_files))


def text(directory: Path, extra: str = "") -> str:
    guest(directory)
    return config_text(extra=GUEST.format(directory)).replace("[catalog]\n", f"[catalog]\n{LOOPBACK}{extra}")


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Registry]:
    with registry(tmp_path / "registry") as running:
        yield running


def asked(url: str, **fields: Any) -> catalog_pb2.ImportImageRequest:
    return catalog_pb2.ImportImageRequest(url=url, **{"name": "model", **fields})


async def imported(lab: Whole, request: catalog_pb2.ImportImageRequest) -> list[Any]:
    return [step async for step in lab.catalog.ImportImage(request)]


def own(directory: Path, *config: str) -> Path:
    """An image of two layers, the second of which hides a file of the first."""
    source = directory / "files"
    source.mkdir()
    (source / "run").write_text("#!/bin/sh\necho it runs\n")
    (source / "run").chmod(0o4755)
    (source / "old").write_text("old")
    (source / "passwd").write_text("root:x:0:0::/root:/bin/sh\nserver:x:1007:1008::/home/server:/bin/sh\n")
    layers = [
        {"/opt/run": source / "run", "/opt/old": source / "old", "/etc/passwd": source / "passwd"},
        {"/opt/new": source / "old"},
    ]
    options = ("--config.entrypoint", "/opt/run", "--config.cmd", "--port", "--config.cmd", "80 80", *config)
    return image(directory / "layout", layers, *options, delete={1: ["/opt/old"]})


def data_of(path: Path) -> bytes:
    return path.read_bytes()


def listed(path: Path) -> dict[str, str]:
    """Path -> mode and owner, as squashfs-tools tell them."""
    lines = run("unsquashfs", "-lln", "-d", "", path).splitlines()
    found = {}
    for line in lines:
        words = line.split()
        if len(words) > 5:
            found[words[5]] = f"{words[0]} {words[1]}"
    return found


@pytest.mark.asyncio
async def test_an_image_of_a_registry_is_a_disk_with_owners_modes_and_whiteouts_as_they_are(
    tmp_path: Path, shelf: Registry
) -> None:
    options = ["--config.env", "GREETING=hello there", "--config.env", "CORRAL_GROUP_SIZE=7"]
    options += ["--config.workingdir", "/opt", "--config.user", "server"]
    digest = shelf.push(own(tmp_path, *options), "team/model")
    async with whole(tmp_path, text(tmp_path)) as lab:
        steps = await imported(lab, asked(shelf.url("team/model", digest), request_id="one"))
        told = steps[-1].inventory
        assert (told.name, told.format, told.container_digest) == ("model", "container", digest)
        assert list(told.container_command) == ["/opt/run", "--port", "80 80"]
        assert steps[-1].done
        stored = (await lab.service.catalog.get_image(told.uuid)).image
        disk = Path(stored.disk_path)
        assert told.sha256 == hashlib.sha256(data_of(disk)).hexdigest() == stored.sha256["disk"]
        assert told.initrd_sha256 == stored.sha256["initrd"]
        assert data_of(Path(stored.kernel_path)) == b"kernel" * 100
        assert told.size == sum(len(data_of(Path(path))) for path in (disk, stored.kernel_path, stored.initrd_path))
        here = listed(disk)
        assert here["/opt/run"] == "-rwsr-xr-x 0/0"
        assert ("/opt/old" in here, "/opt/new" in here) == (False, True)

        def content(path: str) -> str:
            return run("unsquashfs", "-cat", disk, path)

        assert content(f"{RESERVED}/user") == "1007"
        assert content(f"{RESERVED}/directory") == "/opt"
        lines = content(f"{RESERVED}/environment").splitlines()
        assert "GREETING=hello there" in lines
        assert "HOME=/home/server" in lines
        assert not [line for line in lines if line.startswith("CORRAL_")], "what is planned is no image's to say"
        assert not [name for name in files(tmp_path) if name.startswith(".")], "layers are not kept"
        # The same request is answered with what it made; another makes the same bytes, which are kept once.
        again = await imported(lab, asked(shelf.url("team/model", digest), request_id="one"))
        assert again[-1].inventory == told
        before = files(tmp_path)
        other = (await imported(lab, asked(shelf.url("team/model", digest), name="other", sha256=digest)))[-1].inventory
        assert (other.sha256, files(tmp_path)) == (told.sha256, before)
        for one in (told, other):
            assert files(tmp_path)
            await lab.catalog.DeleteImage(catalog_pb2.DeleteImageRequest(uuid=one.uuid))
        assert files(tmp_path) == []


@pytest.mark.asyncio
async def test_an_image_that_skopeo_packed_by_zstd_is_a_disk_too(tmp_path: Path, shelf: Registry) -> None:
    digest = shelf.push(own(tmp_path), "model", packed="zstd")
    manifest = data_of(shelf.blob(digest))
    assert (b"tar+zstd" in manifest, b"tar+gzip" in manifest) == (True, False)
    async with whole(tmp_path, text(tmp_path)) as lab:
        made = (await imported(lab, asked(shelf.url("model", digest))))[-1].inventory
        here = listed(Path((await lab.service.catalog.get_image(made.uuid)).image.disk_path))
        assert ("/opt/run" in here, "/opt/old" in here, "/opt/new" in here) == (True, False, True)


@pytest.mark.asyncio
async def test_what_is_no_image_here_is_told_by_its_field_and_leaves_nothing(
    tmp_path: Path, shelf: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = shelf.push(own(tmp_path), "model")
    good, none = shelf.url("model", digest), "0" * 64
    bad: list[tuple[dict[str, Any], str, str]] = [
        ({"url": shelf.url("model", none)}, "url", "is not known to its registry"),
        ({"url": shelf.url("nobodys/model", digest)}, "url", "is not known to its registry"),
        ({"url": good.split("@")[0]}, "url", "may be another image tomorrow"),
        ({"url": f"{good.split('@')[0]}:latest"}, "url", "may be another image tomorrow"),
        ({"url": good[:-1]}, "url", "64 hexadecimal digits"),
        ({"url": good.replace("model", "Model")}, "url", "as registries do"),
        ({"url": good.replace("/model", "/../model")}, "url", "as registries do"),
        ({"url": "oci+http://127.0.0.1:1/model@sha256:" + none}, "", "cannot be reached"),
        ({"url": f"oci://169.254.169.254/model@sha256:{none}"}, "url", "may not be fetched from"),
        ({"url": good, "sha256": none}, "sha256", "the digest that stands in url"),
        ({"url": good, "format": "raw"}, "format", "must be empty for a container image"),
        ({"url": good, "delivery": "nocloud"}, "delivery", "must be empty for a container image"),
        ({"url": good, "kernel_arguments": "quiet"}, "kernel_arguments", "must be empty"),
        ({"url": good, "initrd_sha256": none}, "initrd_sha256", "must be empty"),
    ]
    monkeypatch.setattr("service.app.image_sources.TRIES", 1)
    async with whole(tmp_path, text(tmp_path)) as lab:
        lab.service.imports._sources.pauses = (0.0,)
        for fields, field, words in bad:
            status = INVALID if field else (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
            error = await refused(imported(lab, asked(**fields)), *status, field)
            assert words in (error.details() or "") + str(error.trailing_metadata()), (fields, error.details())
            assert files(tmp_path) == [], fields
        await imported(lab, asked(f"{good.split('@')[0]}:latest@sha256:{digest}"))  # the digest decides
        elsewhere = str(tmp_path / "nothing")
        with monkeypatch.context() as poor:
            poor.setenv("PATH", elsewhere)
            error = await refused(
                imported(lab, asked(good, name="poor")), grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE"
            )
            assert "squashfs-tools" in (error.details() or "")
        guest(tmp_path, b"another guest")
        error = await refused(
            imported(lab, asked(good, name="old")), grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE"
        )
        assert "catalog.container_guest" in (error.details() or "")
    unnamed = text(tmp_path).replace('container_guest = "container-guest"\n', "")
    async with whole(tmp_path, unnamed) as lab:
        error = await refused(imported(lab, asked(good)), grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE")
        assert "catalog.container_guest" in (error.details() or "")
    for limit, words in (("max_upload_size", "may have 100 here"), ("max_unpacked_size", "more than 100 bytes")):
        async with whole(tmp_path, text(tmp_path, f'{limit} = "100"\n')) as lab:
            error = await refused(imported(lab, asked(good, name="large")), *INVALID, "url")
            assert words in str(error.trailing_metadata()) + (error.details() or "")
            assert [name for name in files(tmp_path) if name.startswith(".")] == []


@pytest.mark.asyncio
async def test_a_registry_with_accounts_is_shown_them_and_nobody_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with registry(tmp_path / "registry", ACCOUNT) as shelf:
        digest = shelf.push(own(tmp_path), "model", user=f"me:{PASSWORD}")
        database = tmp_path / "corral.db"
        configuration = text(tmp_path).replace("sqlite://", f"sqlite:///{database}") + a_key(tmp_path)
        told = []
        with caplog.at_level(logging.DEBUG):
            logging.getLogger("httpx").setLevel(logging.WARNING)  # as the service sets it
            logging.getLogger("httpcore").setLevel(logging.WARNING)
            async with whole(tmp_path, configuration) as lab:
                url = shelf.url("model", digest)
                error = await refused(imported(lab, asked(url)), *INVALID, "url")
                assert "wants a user and a password" in str(error.trailing_metadata()) + (error.details() or "")
                wrong = shelf.url("model", digest, secret=f"me:{PASSWORD}x")
                error = await refused(imported(lab, asked(wrong)), *INVALID, "url")
                told.append(f"{error.details()} {error.trailing_metadata()}")
                lines: list[str] = []
                watch = asyncio.create_task(_command_lines(lines))
                steps = await imported(lab, asked(shelf.url("model", digest, secret=f"me:{PASSWORD}")))
                watch.cancel()
                told += [str(step) for step in steps]
                assert any("service.app.unpacking" in line for line in lines)
                told += lines
                # The same by a secret of the project's.
                await lab.secrets.CreateSecret(secret_pb2.CreateSecretRequest(name="shelf", value=f"me:{PASSWORD}"))
                by_name = asked(url, name="by-name", credentials="secret://shelf")
                told += [str(step) for step in await imported(lab, by_name)]
                both = asked(shelf.url("model", digest, secret="me:x"), credentials="secret://shelf")
                error = await refused(imported(lab, both), *INVALID, "credentials")
                told += [str(error), str(error.trailing_metadata())]
        told += [caplog.text, *stored_in(tmp_path)]
        assert not [line[:200] for line in told if PASSWORD in line]


def stored_in(directory: Path) -> list[str]:
    """What the database's files hold."""
    return [path.read_bytes().decode("latin-1") for path in directory.glob("corral.db*")]


async def _command_lines(found: list[str]) -> None:
    """Of the processes that unpack, as often as may be: argument lists and environments."""
    while True:
        found += _unpacking()
        await asyncio.sleep(0.01)


def _unpacking() -> Iterator[str]:
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = (process / "cmdline").read_bytes().decode("latin-1")
            if "unpacking" in line or "sqfstar" in line:
                yield line + (process / "environ").read_bytes().decode("latin-1")
