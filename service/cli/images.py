"""`corral image`: files of this machine become images of the service, and go again."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import click
import grpc
from corral.v1 import catalog_pb2
from grpc_status import rpc_status

from service.cli import errors, names
from service.cli.catalog import Stub, find_image
from service.cli.command import Output, Session, output_option, verb, verb_group
from service.cli.explanation import size_text
from service.client.follow import is_lost

_PART = 1 << 20
_TRIES = 8
_PAUSE_SECONDS = 1.0
_QCOW2 = b"QFI\xfb"


def register(corral: click.Group) -> None:
    """Add the sub-commands."""
    image = verb_group(corral, "image", example="corral image upload disk.qcow2")(explain_image)
    verb(image, "upload", example="corral image upload images/disk.raw --name mine")(upload_image)
    verb(image, "import", example="corral image import https://mirror.example/disk.raw --sha256 SUM")(import_image)
    verb(image, "delete", example="corral image delete mine")(delete_image)


def explain_image(session: Session) -> int:
    """Upload or import an image, or delete one; `corral images` lists all."""
    click.echo(click.get_current_context().get_help())
    return errors.OK


_arguments_option = click.option("--arguments", "kernel_arguments", default="", help="The command line of a kernel.")
_delivery_option = click.option(
    "--delivery",
    type=click.Choice(["nocloud", "fw_cfg", "seed"]),
    default=None,
    help="How documents reach the guest.  [default: nocloud, by cloud-init; for a kernel fw_cfg]",
)


@output_option
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", default="", help="What the image is called.  [default: the file's name]")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["raw", "qcow2", "kernel"]),
    help="What the file is.  [default: qcow2 where it begins so, else raw]",
)
@click.option(
    "--initrd", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The initial RAM disk of a kernel."
)
@_arguments_option
@_delivery_option
def upload_image(
    session: Session, output: Output, file: Path, name: str, kind: str | None, initrd: Path | None, **told: Any
) -> int:
    """Upload a disk or a kernel; what was broken off is gone on with by the same command."""
    request = catalog_pb2.UploadImageRequest(name=name or file.name, request_id=uuid4().hex, **told)
    if initrd is not None and kind != "kernel":
        raise click.UsageError("--initrd belongs to --format kernel")
    stub = session.stub(Stub)
    if initrd is not None:
        aside = catalog_pb2.UploadImageRequest(name=initrd.name, format="initrd")
        request.initrd_sha256 = _sent(stub, _measured(initrd, aside), initrd).sha256
    request.format = kind or _format_of(file)
    made = _sent(stub, _measured(file, request), file).answer.inventory
    output.one(made, made.name, f"{made.name} is uploaded: {made.uuid}, {size_text(made.size)}")
    return errors.OK


@output_option
@click.argument("url")
@click.option("--sha256", default="", help="The digest that all bytes must have; of oci:// it stands in the URL.")
@click.option("--name", default="", help="What the image is called.  [default: the last part of the URL's path]")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["raw", "qcow2", "kernel"]),
    help="What it is.  [default: a disk, of the format that its bytes show]",
)
@click.option("--initrd", default="", metavar="URL", help="The initial RAM disk of a kernel.")
@click.option("--initrd-sha256", default="", help="The digest of the initial RAM disk.")
@click.option(
    "--credentials", default="", help="secret://NAME, whose value is USER:PASSWORD, shown to the server or registry."
)
@_arguments_option
@_delivery_option
def import_image(
    session: Session,
    output: Output,
    url: str,
    name: str,
    kind: str | None,
    initrd: str,
    initrd_sha256: str,
    **told: Any,
) -> int:
    """Have the service fetch a disk or a kernel from a URL; what was broken off is gone on with by the same command.

    oci://REGISTRY/NAME@sha256:DIGEST (oci+http:// without TLS) is a container image, which becomes a disk that boots.
    A URL of `-` is read from standard input, so that a token in it stands in no list of processes.
    """
    if (initrd or initrd_sha256) and (kind != "kernel" or not (initrd and initrd_sha256)):
        raise click.UsageError("--initrd and --initrd-sha256 belong together, and to --format kernel")
    url = sys.stdin.readline().strip() if url == "-" else url
    container = url.startswith(("oci://", "oci+http://"))
    if not (container or told["sha256"]):
        raise click.UsageError("--sha256 is required: the digest that all bytes must have")
    called = unquote(urlsplit(url).path.rpartition("/")[2])
    if container:
        called = called.partition("@")[0].partition(":")[0]
    if not (name or called):
        raise click.UsageError("the URL's path ends in no name: say --name")
    stub = session.stub(Stub)
    request = catalog_pb2.ImportImageRequest(url=url, name=name or called, request_id=uuid4().hex, **told)
    request.format, request.initrd_sha256 = kind or "", initrd_sha256
    if initrd:
        aside = catalog_pb2.ImportImageRequest(url=initrd, name="initrd", sha256=initrd_sha256, format="initrd")
        aside.credentials = request.credentials
        _fetched(stub, aside)
    made = _fetched(stub, request).inventory
    output.one(made, made.name, f"{made.name} is imported: {made.uuid}, {size_text(made.size)}")
    return errors.OK


@output_option
@click.argument("name", type=names.IMAGE)
@click.option("--dry-run", "validate_only", is_flag=True, help="Only check it; nothing is changed.")
def delete_image(session: Session, output: Output, name: str, validate_only: bool) -> int:
    """Delete an image that nothing uses, by name or uuid; with it go files that were uploaded."""
    stub = session.stub(Stub)
    found = find_image(stub, name)
    stub.DeleteImage(catalog_pb2.DeleteImageRequest(uuid=found.uuid, validate_only=validate_only))
    output.one(found, found.name, f"{found.name} {'may be' if validate_only else 'is'} deleted")
    return errors.OK


@dataclass(frozen=True)
class _Sent:
    sha256: str
    answer: catalog_pb2.UploadImageResponse


def _format_of(file: Path) -> str:
    with file.open("rb") as opened:
        return "qcow2" if opened.read(len(_QCOW2)) == _QCOW2 else "raw"


def _measured(file: Path, request: catalog_pb2.UploadImageRequest) -> catalog_pb2.UploadImageRequest:
    """With the file's size and digest."""
    request.size = file.stat().st_size
    with file.open("rb") as opened:
        request.sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    return request


def _sent(stub: Stub, request: catalog_pb2.UploadImageRequest, file: Path) -> _Sent:
    """Send what the service does not have; where the connection breaks, go on from where it was."""
    progress, tries, before = Progress(file.name, request.size), _TRIES, -1
    with file.open("rb") as opened:
        while True:
            try:
                asked = catalog_pb2.GetImageUploadRequest(sha256=request.sha256)
                request.offset = min(stub.GetImageUpload(asked).received, request.size)
                tries = _TRIES if request.offset > before else tries
                before = request.offset
                answer = stub.UploadImage(_parts(request, opened, progress.at))
                progress.end()
                return _Sent(request.sha256, answer)
            except grpc.RpcError as error:
                held = error.code() is grpc.StatusCode.ABORTED  # the call that broke off is not seen to have ended
                tries -= 1
                if tries <= 0 or not (is_lost(error) or held):
                    progress.end()
                    raise
                time.sleep(_PAUSE_SECONDS)


def _fetched(stub: Stub, request: catalog_pb2.ImportImageRequest) -> catalog_pb2.ImportImageResponse:
    """Follow an import to its end; where the connection breaks, call again, and it goes on from where it was."""
    progress, tries, before = Progress(request.name, 0), _TRIES, -1
    while True:
        at = before
        try:
            for step in stub.ImportImage(request):
                if step.received > before:
                    tries, before = _TRIES, step.received
                if step.size and not step.done:
                    progress.of(step.size)
                    progress.at(step.received)
                if step.done:
                    progress.end()
                    return step
            raise click.ClickException("the service ended the stream before its end")
        except grpc.RpcError as error:
            held = error.code() is grpc.StatusCode.ABORTED  # the call that broke off is not seen to have ended
            # Where the service itself says that it cannot, it has tried often enough, unless bytes have come meanwhile.
            lost = is_lost(error) and (rpc_status.from_call(error) is None or before > at)
            tries -= 1
            if tries <= 0 or not (lost or held):
                progress.end()
                raise
            time.sleep(_PAUSE_SECONDS)


def _parts(
    request: catalog_pb2.UploadImageRequest, file: BinaryIO, told: Callable[[int], None]
) -> Iterator[catalog_pb2.UploadImageRequest]:
    yield request
    at = request.offset
    file.seek(at)
    told(at)
    while part := file.read(_PART):
        yield catalog_pb2.UploadImageRequest(data=part)
        at += len(part)
        told(at)


class Progress:
    """How far something has come, on standard error: on a terminal a line that changes, else now and then a new one."""

    def __init__(self, name: str, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._size = size
        self._clock = clock
        self._terminal = sys.stderr.isatty()
        self._pause = 0.2 if self._terminal else 5.0
        self._began: tuple[float, int] | None = None
        self._told_at = clock()
        self._shown = False

    def of(self, size: int) -> None:
        """So many bytes there are."""
        self._size = size

    def at(self, count: int) -> None:
        """So many bytes are sent."""
        now = self._clock()
        began, first = self._began = self._began or (now, count)
        if now - self._told_at < self._pause:
            return
        self._told_at, self._shown = now, True
        line = self.line(count, (count - first) / max(now - began, 1e-9))
        print(f"\r{line}\x1b[K" if self._terminal else line, end="" if self._terminal else "\n", file=sys.stderr)
        sys.stderr.flush()

    def line(self, count: int, rate: float) -> str:
        """In words, with the rate (bytes a second) and what remains."""
        share = f"{100 * count // max(self._size, 1)} %"
        left = f", {(self._size - count) / rate:.0f} s left" if rate > 0 else ""
        return f"{self._name}: {size_text(count)} of {size_text(self._size)} ({share}), {size_text(int(rate))}/s{left}"

    def end(self) -> None:
        """Leave the line."""
        if self._terminal and self._shown:
            print(file=sys.stderr, flush=True)
