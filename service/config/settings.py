"""What the service is told at its start, as domain types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from service.domain.catalog import Image, ModelService
from service.domain.devices import DeviceRules
from service.domain.environment import Secret
from service.domain.fleet import Cluster, Host, Overcommit, Zone
from service.domain.preemption import Policies
from service.domain.secrets import SecretKey
from service.domain.tenants import AccessKey, Account, Anonymous, Certificate, Quota, Rate, Token
from service.listening import PRIVATE, ListenAddress


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of the listeners. `client_ca` None: clients show no certificates."""

    certificate: Path
    key: Path
    client_ca: Path | None


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Listeners and their limits. `admin` None: no admin listener. Sizes in bytes, times in ms.

    `host_names`: in requests' `Host`; `trusted_proxies`: in CIDR notation, whose `X-Forwarded-For` is believed.
    `max_grpc_connections`, `max_http_connections`: at a time; each never more than a third of the files that the
    process may open.
    """

    grpc: ListenAddress
    http: ListenAddress
    admin: ListenAddress | None
    insecure: bool
    max_message_bytes: int
    max_nodes: int
    drain_grace_ms: int
    tls: TlsFiles | None = None
    max_grpc_connections: int = 4096
    max_http_connections: int = 4096
    host_names: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    machines: ListenAddress | None = None
    """Where BMCs fetch what machines are told, and machines report."""
    unix_mode: int = PRIVATE
    """The mode of the files of unix sockets."""

    @property
    def on_loopback(self) -> bool:
        """Whether a listener has an address that guests on a network of kind `user` reach."""
        return any(address is not None and not address.path for address in (self.grpc, self.http, self.admin))

    @property
    def known_host_names(self) -> tuple[str, ...] | None:
        """What the HTTP listener may be called besides addresses and localhost; None: anything.

        A listener that other machines reach may have any name, unless names are configured: then it has only these.
        """
        checked = self.host_names or (self.http.local and not self.http.path)
        return self.host_names if checked else None


@dataclass(frozen=True, slots=True)
class LogConfig:
    """`format`: `auto` (console on a terminal, else JSON) | `json` | `console`; `level`: `debug` … `error`."""

    format: str
    level: str


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that the service is told at start. `store_url` is SQLAlchemy's, with an absolute path for SQLite.

    `image_directory`: where RegisterImage finds files, and uploads go. `max_upload_size`: bytes of one upload.
    `least_staging_rate`: bytes a second below which the way of an image to a host is given up.
    `image_copies_budget`: bytes that copies of images may take on a host that says nothing else; 0: no limit.
    `import_networks`: where images may be fetched from, in CIDR notation; empty: anywhere but here. `max_import_ms`:
    how long one call may fetch. `container_guest`: the image that runs container images, empty: none are taken;
    `max_unpacked_size`: bytes of one's layers.
    `webhook_networks`: where finished jobs may be told, in CIDR notation.
    `cluster_id`: the id that this file names; empty: the database's own. `cluster_name`: for people; empty: the id.
    `anonymous`: which callers that show nothing are administrators.
    `rates`: how often callers may call, by project; that of "" holds for every project that is not named.
    """

    server: ServerConfig
    store_url: str
    cluster_id: str
    cluster_name: str
    log: LogConfig
    overcommit: Overcommit
    zones: tuple[Zone, ...]
    hosts: tuple[Host, ...]
    images: tuple[Image, ...]
    model_services: tuple[ModelService, ...]
    image_directory: Path
    max_upload_size: int
    least_staging_rate: int
    image_copies_budget: int
    import_networks: tuple[str, ...] = ()
    max_import_ms: int = 86_400_000
    container_guest: str = ""
    max_unpacked_size: int = 1 << 36
    accounts: tuple[Account, ...] = ()
    webhook_networks: tuple[str, ...] = ()
    anonymous: Anonymous = Anonymous.UNIX
    open_scrape: bool = True
    """Whether programs of this machine read the metrics without a role."""
    access_keys: tuple[AccessKey, ...] = ()
    tokens: tuple[Token, ...] = ()
    token_files: Mapping[str, Path] = field(default_factory=dict)
    """Name of a token -> the file that holds it."""
    devices: DeviceRules = field(default_factory=DeviceRules)
    quotas: tuple[Quota, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    rates: Mapping[str, Rate] = field(default_factory=dict)
    keep_room_after: int = 600
    """s; after so long room is kept for the first in line though no start is proven; 0: never."""
    hold_seconds: int = 600
    """s; whoever has moved less than so long ago no rebalance moves for load, unless it says otherwise; 0: it does."""
    priorities: Policies = field(default_factory=dict)
    """By project how high it may go and who evicts whom, of "" all that are not named."""
    credentials: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Credential's name -> the host's option that it stands for (`ssh_key`, `password_file`) -> path of the file."""
    secrets: tuple[Secret, ...] = ()
    secret_keys: tuple[SecretKey, ...] = ()
    clusters: tuple[Cluster, ...] = ()
