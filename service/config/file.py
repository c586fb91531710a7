"""The configuration file: TOML in, checked domain types out. It reads files and nothing else.

`load` reads a file, `parse` a text. Every error names the key by its path (`hosts[2].zone`) and says what is allowed.
All errors of a file are told at once. Relative paths are taken from the directory of the file.
"""

from __future__ import annotations

import json
import tomllib
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from service.config import schema
from service.config.problems import describe
from service.config.values import affordable, plain_uuid
from service.domain import boot_files, environment
from service.domain.catalog import Image, ModelService
from service.domain.environment import Secret
from service.domain.fleet import MEMORY, VCPU, Host, HostAddress, HostState, Overcommit, Zone
from service.domain.network import Network
from service.domain.ownership import LEGACY_CLUSTER
from service.domain.tenants import Account, Caller, Certificate, Quota, Rate, Token
from service.drivers import kinds
from service.errors import FieldViolation
from service.listening import ListenAddress

_HOST_NAMESPACE = uuid.UUID("0d8a9e53-60a9-5a5e-9d5b-6f6c6c1f7c02")


class ConfigError(Exception):
    """The configuration cannot be used. `problems`: one line each, the key's path first."""

    def __init__(self, source: str, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join([f"{source}: {len(problems)} problem(s)", *(f"  {line}" for line in problems)]))


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of the listeners. `client_ca` None: clients show no certificates."""

    certificate: Path
    key: Path
    client_ca: Path | None


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Listeners and their limits. `admin` None: no admin listener. Sizes in bytes, times in ms.

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


@dataclass(frozen=True, slots=True)
class LogConfig:
    """`format`: `auto` (console on a terminal, else JSON) | `json` | `console`; `level`: `debug` … `error`."""

    format: str
    level: str


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that the service is told at start. `store_url` is SQLAlchemy's, with an absolute path for SQLite.

    `image_directory`: where RegisterImage finds files.
    `webhook_networks`: where finished jobs may be told, in CIDR notation.
    `cluster_id`: the id that this file names; empty: the database's own.
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
    accounts: tuple[Account, ...] = ()
    webhook_networks: tuple[str, ...] = ()
    anonymous: bool = True
    tokens: tuple[Token, ...] = ()
    quotas: tuple[Quota, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    rates: Mapping[str, Rate] = field(default_factory=dict)
    ssh_keys: Mapping[str, str] = field(default_factory=dict)
    """Credential's name -> path of the private key file."""
    secrets: tuple[Secret, ...] = ()


def load(path: Path) -> Config:
    """The configuration in the file at `path`; boot files that a libvirt host would need must exist.

    Raises ConfigError.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(str(path), [f"cannot be read: {problem}"]) from problem
    config = parse(text, path.resolve().parent, source=str(path))
    if any(kinds.KINDS[host.address.driver].boots_files for host in config.hosts):
        _require_boot_files(config, str(path))
    return config


def parse(text: str, directory: Path, *, source: str = "configuration") -> Config:
    """The configuration in `text`; relative paths count from `directory`. Raises ConfigError."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise ConfigError(source, [f"not TOML: {problem}"]) from problem
    try:
        checked = schema.Configuration.model_validate(raw)
    except ValidationError as problem:
        raise ConfigError(source, [describe(dict(error)) for error in problem.errors(include_url=False)]) from problem
    return _Builder(checked, directory, source).build()


class _Builder:
    """Turns the checked sections into domain types and collects what does not fit together."""

    def __init__(self, checked: schema.Configuration, directory: Path, source: str) -> None:
        self.checked = checked
        self.directory = directory
        self.source = source
        self.problems: list[str] = []

    def build(self) -> Config:
        """The whole configuration. Raises ConfigError."""
        images = tuple(self._image(i, image) for i, image in enumerate(self.checked.images))
        by_name = {image.name: image for image in images}
        config = Config(
            server=self._server(),
            store_url=self._store_url(),
            cluster_id=self.checked.cluster.id,
            cluster_name=self.checked.cluster.name or self.checked.cluster.id or LEGACY_CLUSTER,
            log=LogConfig(self.checked.log.format, self.checked.log.level),
            overcommit=_overcommit(self.checked.overcommit),
            zones=tuple(_zone(zone) for zone in self.checked.zones),
            hosts=tuple(self._host(i, host) for i, host in enumerate(self.checked.hosts)),
            images=images,
            model_services=tuple(
                self._model_service(i, entry, by_name) for i, entry in enumerate(self.checked.model_services)
            ),
            image_directory=self._path(self.checked.catalog.image_directory),
            anonymous=self.checked.identity.anonymous,
            tokens=tuple(
                Token(entry.sha256, Caller(entry.name, entry.project, entry.role)) for entry in self.checked.tokens
            ),
            quotas=tuple(_quota(section) for section in self.checked.quotas),
            certificates=tuple(
                Certificate(entry.uri, Caller(entry.name, entry.project, entry.role))
                for entry in self.checked.certificates
            ),
            accounts=tuple(
                Account(entry.name, entry.password_sha512, Caller(entry.name, entry.project, entry.role))
                for entry in self.checked.accounts
            ),
            webhook_networks=tuple(self.checked.webhooks.allow),
            ssh_keys={entry.name: entry.ssh_key for entry in self.checked.credentials},
            secrets=tuple(
                Secret(entry.name, self._path_text(entry.file), entry.variable, frozenset(entry.projects))
                for entry in self.checked.secrets
            ),
            rates={rate.project: Rate(rate.calls_per_second, rate.burst) for rate in self.checked.rate_limits},
        )
        self._require_unique("zones", "uuid", [zone.uuid for zone in config.zones])
        self._require_unique("zones", "name", [zone.name for zone in config.zones])
        self._require_unique("credentials", "name", [entry.name for entry in self.checked.credentials])
        self._require_unique("secrets", "name", [entry.name for entry in self.checked.secrets])
        self._require_unique("quotas", "project", [quota.project for quota in config.quotas])
        self._require_unique("rate_limits", "project", [rate.project for rate in self.checked.rate_limits])
        self._require_unique("hosts", "uuid", [host.uuid for host in config.hosts])
        self._require_unique("hosts", "name", [host.name for host in config.hosts])
        self._require_unique("images", "name", [image.name for image in config.images])
        self._require_unique("model_services", "uuid", [entry.uuid for entry in config.model_services])
        self._require_unique("accounts", "name", [account.name for account in config.accounts])
        if self.problems:
            raise ConfigError(self.source, self.problems)
        return config

    def _server(self) -> ServerConfig:
        section = self.checked.server
        admin = section.admin if isinstance(section.admin, ListenAddress) else None
        listeners = {"grpc": section.grpc, "http": section.http, "admin": admin}
        for key, address in listeners.items():
            if address is None or address.local or section.insecure:
                continue
            if section.tls is None or key == "admin":
                self.problems.append(
                    f"server.{key}: {address} can be reached from other machines and has no TLS; "
                    "use a loopback address, unix:<path>, [server.tls], or say server.insecure = true"
                )
            elif self.checked.identity.anonymous:
                self.problems.append(
                    f"server.{key}: {address} can be reached from other machines and asks nobody who they are; "
                    "say identity.anonymous = false and name tokens, accounts or certificates"
                )
        used = [str(address) for address in listeners.values() if address is not None and address.port != 0]
        if len(set(used)) != len(used):
            self.problems.append("server: grpc, http and admin need different addresses")
        return ServerConfig(
            grpc=section.grpc,
            http=section.http,
            admin=admin,
            insecure=section.insecure,
            max_message_bytes=section.max_message_bytes,
            max_nodes=section.max_nodes,
            drain_grace_ms=section.drain_grace_ms,
            tls=self._tls(section.tls),
            max_grpc_connections=affordable(section.max_grpc_connections),
            max_http_connections=affordable(section.max_http_connections),
        )

    def _tls(self, section: schema.TlsSection | None) -> TlsFiles | None:
        if section is None:
            return None
        files = TlsFiles(
            self._path(section.certificate),
            self._path(section.key),
            self._path(section.client_ca) if section.client_ca else None,
        )
        for key, path in (("certificate", files.certificate), ("key", files.key), ("client_ca", files.client_ca)):
            if path is not None and not path.is_file():
                self.problems.append(f"server.tls.{key}: {path} is not a file")
        return files

    def _store_url(self) -> str:
        url = self.checked.store.url
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in ("sqlite", "postgresql+psycopg"):
            self.problems.append("store.url: allowed: sqlite:///<path>, sqlite:// (memory), postgresql+psycopg://…")
            return ""
        if scheme == "sqlite" and rest:
            if not rest.startswith("/") or len(rest) == 1:
                self.problems.append("store.url: sqlite:///<path>, with three slashes before a relative path")
                return ""
            return f"sqlite:///{self._path(rest[1:])}"
        return url

    def _host(self, index: int, section: schema.HostSection) -> Host:
        where = f"hosts[{index}]"
        zones = {zone.uuid: zone.uuid for zone in self.checked.zones} | {z.name: z.uuid for z in self.checked.zones}
        key = plain_uuid(section.zone) or section.zone
        if key not in zones:
            self.problems.append(
                f"{where}.zone: no zone {section.zone!r}; {_known(zone.name for zone in self.checked.zones)}"
            )
        address = HostAddress(
            driver=section.driver,
            transport=section.transport,
            address=section.address,
            port=section.port,
            socket=section.socket,
            username=section.username,
            options=section.options,
        )
        self._tell(where, kinds.violations(address, in_file=True))
        return Host(
            uuid=section.uuid
            or uuid.uuid5(_HOST_NAMESPACE, f"{self.checked.cluster.id or LEGACY_CLUSTER}/{section.name}").hex,
            name=section.name,
            zone_uuid=zones.get(key, ""),
            address=address,
            rack=section.rack,
            labels=section.labels,
            overcommit=_overcommit(section.overcommit),
            capacity_override=section.capacity,
            bridge=section.bridge,
            state=HostState(section.state),
        )

    def _image(self, index: int, section: schema.ImageSection) -> Image:
        where = f"images[{index}]"
        if section.manifest:
            if section.kernel or section.initrd or section.disk:
                self.problems.append(f"{where}.manifest: stands alone, without kernel, initrd and disk")
            return self._image_from_manifest(where, section)
        if not section.kernel and not section.disk:
            self.problems.append(f"{where}: needs manifest, kernel or disk")
        if section.initrd and not section.kernel:
            self.problems.append(f"{where}.initrd: needs a kernel")
        paths = {"kernel": section.kernel, "initrd": section.initrd, "disk": section.disk}
        for role in section.sha256:
            if not paths[role]:
                self.problems.append(f"{where}.sha256.{role}: the image has no {role}")
        return Image(
            name=section.name,
            kernel_path=self._path_text(section.kernel),
            initrd_path=self._path_text(section.initrd),
            kernel_arguments=section.kernel_arguments,
            disk_path=self._path_text(section.disk),
            disk_format=section.disk_format,
            sha256={str(role): digest for role, digest in section.sha256.items()},
            delivery=section.delivery,
            progress_channel=section.progress_channel,
        )

    def _image_from_manifest(self, where: str, section: schema.ImageSection) -> Image:
        """An image as `deploy/guest/build.py` leaves it: kernel, initramfs, their digests and the command line."""
        path = self._path(section.manifest)
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            kernel, initramfs = told["kernel"], told["initramfs"]
            digests = {"kernel": str(kernel["sha256"]), "initrd": str(initramfs["sha256"])}
            files = (path.parent / str(kernel["file"]), path.parent / str(initramfs["file"]))
            arguments = section.kernel_arguments or str(told["command_line"])
        except (OSError, ValueError, KeyError, TypeError) as problem:
            self.problems.append(
                f"{where}.manifest: {path} cannot be used ({type(problem).__name__}: {problem}); "
                "`make guest` builds the default guest"
            )
            return Image(name=section.name)
        return Image(
            name=section.name,
            kernel_path=str(files[0]),
            initrd_path=str(files[1]),
            kernel_arguments=arguments,
            sha256=digests,
            delivery=section.delivery,
            progress_channel=section.progress_channel,
        )

    def _model_service(
        self, index: int, section: schema.ModelServiceSection, images: Mapping[str, Image]
    ) -> ModelService:
        image = images.get(section.image)
        if image is None:
            self.problems.append(f"model_services[{index}].image: no image {section.image!r}; {_known(images)}")
            image = Image(name=section.image)
        secrets = {secret.name for secret in self.checked.secrets}
        for name, wrong in environment.problems(section.environment, secrets.__contains__):
            self.problems.append(f"model_services[{index}].environment.{name}: {wrong}")
        values = section.model_dump(exclude={"image", "supported_metrics"})
        return ModelService(image=image, supported_metrics=tuple(section.supported_metrics), **values)

    def _require_unique(self, section: str, key: str, values: list[str]) -> None:
        first: dict[str, int] = {}
        for index, value in enumerate(values):
            if value in first:
                self.problems.append(f"{section}[{index}].{key}: {value} is taken by {section}[{first[value]}]")
            first.setdefault(value, index)

    def _tell(self, where: str, found: Iterable[FieldViolation]) -> None:
        self.problems += [f"{where}.{wrong.field}: {wrong.description}" for wrong in found]

    def _path(self, text: str) -> Path:
        return (self.directory / Path(text).expanduser()).resolve()

    def _path_text(self, text: str) -> str:
        return str(self._path(text)) if text else ""


def _quota(section: schema.QuotaSection) -> Quota:
    limits = {VCPU: section.cpu, MEMORY: section.memory}
    named = {name: limit for name, limit in limits.items() if limit is not None}
    return Quota(section.project, {**named, **{f"gpu.{model}": count for model, count in section.gpus.items()}})


def _overcommit(section: schema.OvercommitSection) -> Overcommit:
    ratios = {VCPU: section.cpu, MEMORY: section.memory}
    reserved = {VCPU: section.reserved_cpu, MEMORY: section.reserved_memory}
    return Overcommit(
        {name: value for name, value in ratios.items() if value is not None},
        {name: value for name, value in reserved.items() if value is not None},
    )


def _zone(section: schema.ZoneSection) -> Zone:
    network = section.network
    first, last = network.pool_bounds()
    return Zone(
        uuid=section.uuid,
        name=section.name,
        description=section.description,
        network=Network(
            kind=network.kind,
            source=network.source,
            subnet=network.subnet,
            gateway=network.gateway,
            first_address=first,
            last_address=last,
        ),
        overcommit=_overcommit(section.overcommit),
    )


def _require_boot_files(config: Config, source: str) -> None:
    problems = [
        f"images[{index}]: {wrong}" for index, image in enumerate(config.images) for wrong in _boot_file_problems(image)
    ]
    if problems:
        raise ConfigError(source, problems)


def _boot_file_problems(image: Image) -> Iterator[str]:
    """What RegisterImage would say of the files."""
    formats = {image.kernel_path: "kernel", image.initrd_path: "initrd", image.disk_path: image.disk_format}
    for name, declared in formats.items():
        path = Path(name)
        if name and not path.is_file():
            yield f"no file {path}"
        elif name:
            try:
                with path.open("rb") as file:
                    wrong = boot_files.problem(file, path.stat().st_size, declared)
            except OSError as problem:
                wrong = f"cannot be read ({problem.strerror})"
            if wrong:
                yield f"{path} {wrong}"


def _known(names: Iterable[str]) -> str:
    listed = ", ".join(sorted(names))
    return f"known: {listed}" if listed else "none is configured"
