"""The catalogue: boot images, and the model services that node specs name. Pure data.

Stored as JSON under these very field names: a field is renamed or removed only with a migration (ARCHITECTURE, "Stored
JSON"); classes may move.
"""

from __future__ import annotations

import uuid as uuids
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from service.domain.containers import Container


@dataclass(frozen=True, slots=True)
class RegisteredImage:
    """An image that the catalogue knows. `format`: raw | qcow2 | kernel | container; `size`: bytes of all its files.
    `uploaded`: digests of those files that the service itself wrote into the image store, and may delete."""

    uuid: str
    image: Image
    format: str
    size: int = 0
    version: int = 0
    created_at: int = 0
    updated_at: int = 0
    uploaded: tuple[str, ...] = ()


def configured_image_uuid(name: str) -> str:
    """The uuid of an image of the configuration file, where images have names alone."""
    return uuids.uuid5(_IMAGE_NAMESPACE, name).hex


_IMAGE_NAMESPACE = uuids.UUID("2f1d6f0a-8f0d-5f0e-b0f3-6b8f0c9c5b03")


@dataclass(frozen=True, slots=True)
class ModelService:
    """A catalogue entry: the template that a node spec's `uuid` names. Sizes in bytes, times in ms.

    `image_uuid`: where `image` was copied from. `readiness_*`: 0 leaves it to the guest.
    `readiness_kind`: a word of `presets.Ready`, empty for the framework's; `readiness_command` belongs to `command`,
    `readiness_line` to `serial`.
    `canary_*`: a request that rank 0 answers and a POSIX extended regular expression that a right answer matches; empty
    for none. An empty body is asked for by GET.
    `weights_uri`, `weights_sha256`: the file of the model's weights, which guests fetch; empty: the image has them.
    `version` rises with every change; members name the one that they were admitted with.

    `model_service_type`: what it is for, in ZStack's words: `Endpoint`, `FineTune`, `ModelEval` or `App`.
    `ports` maps a role of ARCHITECTURE's rendezvous contract (`service`, `rendezvous`, `rpc`) to a TCP port.
    `workers_first`: the engine's gate wants the workers up before the initial node when the strategy is sequential.
    """

    uuid: str
    name: str
    image: Image
    description: str = ""
    framework: str = "custom"
    model_uuid: str = ""
    model_service_type: str = "Endpoint"
    ports: Mapping[str, int] = field(default_factory=lambda: {"service": 8080})
    health_path: str = "/health"
    default_cpu: int = 1
    default_memory: int = 1 << 30
    root_disk_size: int = 0
    initial_command: str = ""
    worker_command: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    workers_first: bool = False
    boot_timeout_ms: int = 300_000
    stop_grace_ms: int = 5_000
    supported_metrics: tuple[str, ...] = ()
    image_uuid: str = ""
    readiness_port: int = 0
    readiness_interval_ms: int = 0
    readiness_timeout_ms: int = 0
    readiness_kind: str = ""
    readiness_command: str = ""
    readiness_line: str = ""
    canary_path: str = ""
    canary_body: str = ""
    canary_expect: str = ""
    weights_uri: str = ""
    weights_sha256: str = ""
    version: int = 0
    created_at: int = 0
    updated_at: int = 0


@dataclass(frozen=True, slots=True)
class Image:
    """A registered boot source. Paths are on the control plane's machine; drivers carry the bytes to the host.

    Either `kernel_path` (+ `initrd_path`, `kernel_arguments`) for a direct boot, or `disk_path` with `disk_format`
    (`raw` | `qcow2`), or both. `sha256` maps a path's role (`kernel`, `initrd`, `disk`) to its expected hex digest.
    `delivery`: `fw_cfg`, `nocloud`, or `seed`: a disk image that bare metal boots, with the documents laid in.
    `container`: of a disk that was made of a container image; kernel and initrd are those of the guest that runs it.
    """

    name: str
    kernel_path: str = ""
    initrd_path: str = ""
    kernel_arguments: str = ""
    disk_path: str = ""
    disk_format: str = "raw"
    sha256: Mapping[str, str] = field(default_factory=dict)
    delivery: str = "fw_cfg"
    progress_channel: str = "org.corral.progress"
    container: Container | None = None


def disk_image(name: str, path: str, disk_format: str, sha256: str, delivery: str = "") -> Image:
    """An image of a disk. One from anywhere has cloud-init; of Corral's own ways it may know nothing."""
    digests = {"disk": sha256}
    return Image(name, disk_path=path, disk_format=disk_format, sha256=digests, delivery=delivery or "nocloud")


def kernel_image(
    name: str, path: str, initrd_path: str, sha256: Mapping[str, str], arguments: str = "", delivery: str = ""
) -> Image:
    """An image of a kernel and perhaps an initial RAM disk."""
    return Image(
        name,
        kernel_path=path,
        initrd_path=initrd_path,
        kernel_arguments=arguments,
        sha256=sha256,
        delivery=delivery or "fw_cfg",
    )


CONTAINER_ARGUMENT = "corral.container"
"""On the kernel's command line it tells the default guest that its disk is a container image's."""


def container_image(
    name: str, paths: Sequence[str], sha256: Mapping[str, str], arguments: str, container: Container
) -> Image:
    """An image of a container image's file system. `paths`: of kernel, initial RAM disk and disk."""
    kernel, initrd, disk = paths
    return Image(
        name,
        kernel_path=kernel,
        initrd_path=initrd,
        kernel_arguments=f"{arguments} {CONTAINER_ARGUMENT}".strip(),
        disk_path=disk,
        sha256=sha256,
        container=container,
    )


def version_key(uuid: str, version: int) -> str:
    """How one version of an entry is named."""
    return f"{uuid}@{version}"
