"""The sections of the configuration file and what each key may hold; `build` makes domain types of them."""

from __future__ import annotations

import ipaddress
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator

from service.config.credentials import STRICT, BmcSection, CredentialSection
from service.config.devices import DeviceSection, PartitionSection
from service.config.priorities import PrioritySection
from service.config.values import (
    Address,
    Amounts,
    Line,
    Milliseconds,
    Name,
    OptionalAddress,
    OptionalName,
    OptionalUuid,
    Options,
    Port,
    Ratio,
    Size,
    Texts,
    Uuid,
    host_text,
)
from service.domain.environment import SECRET_NAME
from service.listening import ListenAddress


class Section(BaseModel):
    """A table of the file: no unknown keys, no conversions but the stated ones."""

    model_config = STRICT


class TlsSection(Section):
    """[server.tls]: PEM files, read again when they change. With `client_ca` clients may show certificates."""

    certificate: Line
    key: Line
    client_ca: Line = ""


def _anonymous(value: Any) -> Any:
    """The value; true and false, as older files have them, too."""
    return {True: "loopback", False: "nobody"}[value] if isinstance(value, bool) else value


class IdentitySection(Section):
    """[identity]. `anonymous`: which callers without credentials are administrators: those of a unix socket, whom the
    kernel lets in by the socket's mode; every program of this machine, whoever runs it; nobody.

    `scrape`: whether this machine's programs read `/metrics` and `/openapi.json` without a role, by a listener that no
    other machine reaches.
    """

    anonymous: Annotated[Literal["unix", "loopback", "nobody"], BeforeValidator(_anonymous)] = "unix"
    scrape: Literal["local", "role"] = "local"


class TokenSection(Section):
    """[[tokens]]: a bearer token, by the SHA-256 of its text or by the file that holds it."""

    name: Name
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    file: Line = ""
    role: Literal["scraper", "viewer", "operator", "admin"]
    project: Name = "default"

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if bool(self.sha256) == bool(self.file):
            raise ValueError("name either a sha256 or a file")
        return self


class CertificateSection(Section):
    """[[certificates]]: a client certificate, by a URI among its subject alternative names."""

    name: Name
    uri: Line
    role: Literal["viewer", "operator", "admin"]
    project: Name = "default"


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text.strip()))
    except ValueError as problem:
        raise ValueError('a network in CIDR notation, such as "10.0.0.0/8" or "127.0.0.1/32"') from problem


class ServerSection(Section):
    """[server]"""

    tls: TlsSection | None = None
    grpc: Address = ListenAddress("127.0.0.1", 50051)
    http: Address = ListenAddress("127.0.0.1", 8080)
    admin: OptionalAddress = None
    machines: OptionalAddress = None
    insecure: bool = False
    max_message_bytes: Annotated[Size, Field(ge=64 << 10, le=256 << 20)] = 4 << 20
    max_nodes: Annotated[int, Field(ge=1, le=1024)] = 1024
    max_grpc_connections: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    max_http_connections: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    drain_grace_ms: Milliseconds = 10_000
    host_names: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,252})$")]] = []
    trusted_proxies: list[Annotated[str, AfterValidator(_network)]] = []
    socket_mode: Literal["0600", "0660"] = "0600"


class StoreSection(Section):
    """[store]"""

    url: str = "sqlite:///var/corral.db"


class ClusterSection(Section):
    """[cluster]"""

    id: OptionalName = ""
    name: Line = ""


class LogSection(Section):
    """[log]"""

    format: Literal["auto", "json", "console"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class WaitingSection(Section):
    """[waiting]: groups that wait for hosts."""

    keep_room_after: Annotated[int, Field(ge=0, le=90 * 86_400)] = 600


class RebalanceSection(Section):
    """[rebalance]: what holds for a rebalance that does not say otherwise."""

    hold_seconds: Annotated[int, Field(ge=0, le=30 * 86_400)] = 600


class OvercommitSection(Section):
    """[overcommit] of a zone or host: only what is named differs from the level above."""

    cpu: Ratio | None = None
    memory: Ratio | None = None
    reserved_cpu: Annotated[int, Field(ge=0, le=1 << 20)] | None = None
    reserved_memory: Size | None = None


class FleetOvercommitSection(OvercommitSection):
    """[overcommit] of the whole fleet: ZStack's ratios and reserve."""

    cpu: Ratio | None = Fraction(10)
    memory: Ratio | None = Fraction(1)
    reserved_cpu: Annotated[int, Field(ge=0, le=1 << 20)] | None = 0
    reserved_memory: Size | None = 1 << 30


class NetworkSection(Section):
    """[zones.network]"""

    kind: Line = "none"
    source: Line = ""
    subnet: Line = ""
    gateway: Line = ""
    pool: Line = ""
    pools: list[Line] = []
    isolation: Line = ""
    reachable: list[Line] = []


class ZoneSection(Section):
    """[[zones]]"""

    uuid: Uuid
    name: Name
    description: Line = ""
    network: NetworkSection = NetworkSection()
    overcommit: OvercommitSection = OvercommitSection()
    image_copies_budget: Annotated[Size, Field(ge=0)] | None = None
    seed_url: Line = ""
    report_url: Line = ""


class HostClusterSection(Section):
    """[[clusters]]: hosts of one zone that nodes can ask for together. (`[cluster]` is the service's own identity.)"""

    uuid: Uuid
    name: Name
    zone: str
    description: Line = ""


class HostSection(Section):
    """[[hosts]]: fields, never a connection URI, because some of a URI's parameters run programs."""

    name: Name
    uuid: OptionalUuid = ""
    zone: str
    driver: Line
    transport: Line = "unix"
    address: Annotated[str, AfterValidator(host_text)] = ""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    socket: Line = ""
    username: Line = ""
    options: Options
    capacity: Amounts
    overcommit: OvercommitSection = OvercommitSection()
    bridge: Line = ""
    labels: Texts
    rack: Line = ""
    cluster_uuid: OptionalUuid = ""
    state: Literal["Enabled", "Disabled", "Maintenance"] = "Enabled"
    bmc: BmcSection | None = None
    partitions: Annotated[list[PartitionSection], Field(max_length=64)] = []


class ImageSection(Section):
    """[[images]]: `manifest` of deploy/guest (of a hypervisor's guest or of bare metal's), or the paths themselves."""

    name: Name
    manifest: str = ""
    kernel: str = ""
    initrd: str = ""
    kernel_arguments: Line = ""
    disk: str = ""
    disk_format: Literal["raw", "qcow2"] = "raw"
    sha256: Annotated[
        dict[Literal["kernel", "initrd", "disk"], Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]],
        Field(default_factory=dict),
    ]
    delivery: Literal["fw_cfg", "nocloud", "seed"] = "fw_cfg"
    progress_channel: Line = "org.corral.progress"


def _service_type(value: Any) -> Any:
    """What was written before it had ZStack's words."""
    return "Endpoint" if value in ("VirtualMachine", "BareMetal") else value


class ModelServiceSection(Section):
    """[[model_services]]: a catalogue entry. The names and defaults are those of `domain.catalog.ModelService`."""

    uuid: Uuid
    name: Name
    image: str
    description: Line = ""
    framework: Literal["vllm-ray", "vllm", "sglang", "torchrun", "llamacpp-rpc", "mpi", "custom"] = "custom"
    model_uuid: OptionalUuid = ""
    model_service_type: Annotated[
        Literal["Endpoint", "FineTune", "ModelEval", "App"], BeforeValidator(_service_type)
    ] = "Endpoint"
    ports: dict[Literal["service", "rendezvous", "rpc"], Port] = {}
    health_path: Annotated[str, Field(pattern=r"^/[!-~]{0,1023}$")] = "/health"
    readiness_kind: Literal["", "http", "listening", "process", "command", "agent", "serial"] = ""
    readiness_command: Line = ""
    readiness_line: Line = ""
    canary_path: Annotated[str, Field(pattern=r"^(/[!-~]{0,1023})?$")] = ""
    canary_body: Line = ""
    canary_expect: Line = ""
    weights_uri: Line = ""
    weights_sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    default_cpu: Annotated[int, Field(ge=1, le=4096)] = 1
    default_memory: Size = 1 << 30
    root_disk_size: Size = 0
    initial_command: Line = ""
    worker_command: Line = ""
    environment: Texts
    workers_first: bool = False
    boot_timeout_ms: Milliseconds = 300_000
    stop_grace_ms: Milliseconds = 5_000
    supported_metrics: list[Line] = []


class CatalogSection(Section):
    """[catalog]: the image store, and what may come into it. Each key's meaning: deploy/config.example.toml."""

    image_directory: str = "images"
    max_upload_size: Annotated[Size, Field(ge=1)] = 1 << 40
    least_staging_rate: Annotated[Size, Field(ge=1)] = 256 << 10
    image_copies_budget: Annotated[Size, Field(ge=0)] = 0
    import_networks: list[Annotated[str, AfterValidator(_network)]] = []
    max_import_ms: Annotated[Milliseconds, Field(ge=1)] = 86_400_000
    container_guest: str = ""
    max_unpacked_size: Annotated[Size, Field(ge=1)] = 1 << 36


class AccountSection(Section):
    """[[accounts]]: who may log in to the ZStack face. A name is written once."""

    name: Name
    password_sha512: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    role: Literal["viewer", "operator", "admin"]
    project: Name = "default"


class AccessKeySection(Section):
    """[[access_keys]]: a program that signs its calls of the ZStack face instead of logging in."""

    name: Name
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9]{8,64}$")]
    secret: Annotated[str, Field(pattern=r"^[!-~]{16,256}$")]
    role: Literal["viewer", "operator", "admin"]
    project: Name = "default"


class SecretSection(Section):
    """[[secrets]]: what a value `secret://NAME` of an environment variable stands for: one line of text, of a file or
    of a variable of the service's own environment. `projects`: who may refer to it; none named: everybody.
    """

    name: Annotated[str, Field(pattern=f"^{SECRET_NAME.pattern}$")]
    file: Line = ""
    variable: Annotated[str, Field(pattern=r"^([A-Za-z_][A-Za-z0-9_]{0,255})?$")] = ""
    projects: list[Name] = []

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if bool(self.file) == bool(self.variable):
            raise ValueError("name either a file or a variable")
        return self


class SecretKeySection(Section):
    """[[secret_keys]]: what stored secrets are encrypted with: 32 bytes in base64, of a file that only the service may
    read, or of a variable of its own environment. The first one encrypts, all of them decrypt."""

    name: Annotated[str, Field(pattern=f"^{SECRET_NAME.pattern}$")]
    file: Line = ""
    variable: Annotated[str, Field(pattern=r"^([A-Za-z_][A-Za-z0-9_]{0,255})?$")] = ""

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if bool(self.file) == bool(self.variable):
            raise ValueError("name either a file or a variable")
        return self


class QuotaSection(Section):
    """[[quotas]]: the most that a project's members may claim together; what is not named has no limit."""

    project: Name
    cpu: Annotated[int, Field(ge=0, lt=1 << 62)] | None = None
    memory: Size | None = None
    gpus: Amounts


class RateLimitSection(Section):
    """[[rate_limits]]: how often a project's callers may call; without `project`, for all that are not named."""

    project: OptionalName = ""
    calls_per_second: Annotated[float, Field(gt=0, le=1_000_000)]
    burst: Annotated[int, Field(ge=1, le=1_000_000)]


class WebhooksSection(Section):
    """[webhooks]: the networks that webhooks may lead to. Without any, webhooks are refused."""

    allow: list[Annotated[str, AfterValidator(_network)]] = []


class Configuration(Section):
    """The whole file."""

    server: ServerSection = ServerSection()
    store: StoreSection = StoreSection()
    cluster: ClusterSection = ClusterSection()
    log: LogSection = LogSection()
    waiting: WaitingSection = WaitingSection()
    rebalance: RebalanceSection = RebalanceSection()
    overcommit: FleetOvercommitSection = FleetOvercommitSection()
    zones: list[ZoneSection] = []
    clusters: list[HostClusterSection] = []
    hosts: list[HostSection] = []
    images: list[ImageSection] = []
    model_services: list[ModelServiceSection] = []
    catalog: CatalogSection = CatalogSection()
    identity: IdentitySection = IdentitySection()
    accounts: list[AccountSection] = []
    access_keys: list[AccessKeySection] = []
    tokens: list[TokenSection] = []
    credentials: list[CredentialSection] = []
    secrets: list[SecretSection] = []
    secret_keys: list[SecretKeySection] = []
    devices: list[DeviceSection] = []
    quotas: list[QuotaSection] = []
    rate_limits: list[RateLimitSection] = []
    priorities: list[PrioritySection] = []
    certificates: list[CertificateSection] = []
    webhooks: WebhooksSection = WebhooksSection()
