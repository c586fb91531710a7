"""From the checked sections of the configuration file to domain types, and what does not fit together between them."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Iterator

from service.config import schema
from service.config.catalogue import Catalogue
from service.config.credentials import BmcSection
from service.config.device_rules import device_rules
from service.config.keys import key_problem
from service.config.priorities import priority_policy
from service.config.sections import Sections, known
from service.config.settings import Config, LogConfig, ServerConfig, TlsFiles
from service.config.values import affordable, plain_uuid
from service.domain.environment import Secret
from service.domain.fleet import (
    GPU,
    MEMORY,
    VCPU,
    Bmc,
    Cluster,
    Fencing,
    Host,
    HostAddress,
    HostState,
    Overcommit,
    Zone,
    gpu_model_violation,
)
from service.domain.network import Network, NetworkWish, clashes, network_of
from service.domain.ownership import LEGACY_CLUSTER
from service.domain.seats import NO_BASE, is_base
from service.domain.secrets import SecretKey
from service.domain.tenants import AccessKey, Account, Anonymous, Caller, Certificate, Quota, Rate, Token
from service.drivers import in_zone, kinds
from service.errors import FieldViolation
from service.listening import ListenAddress

SHORTEST_TOKEN = 16
_HOST_NAMESPACE = uuid.UUID("0d8a9e53-60a9-5a5e-9d5b-6f6c6c1f7c02")


class Builder:
    """Turns the checked sections into domain types and collects what does not fit together."""

    def __init__(self, sections: Sections) -> None:
        self._file = sections
        self._catalogue = Catalogue(sections)
        self._boots_files = False

    def build(self) -> Config:
        """The whole configuration; not to be used where there are `problems`."""
        checked = self._file.checked
        if not checked.zones and not self._file.left_out.names("zones") and "zones" not in self._file.left_out.sections:
            self._file.problems.append("zones: missing; at least one is needed")
        zones = tuple(self._zone(i, zone) for i, zone in enumerate(checked.zones))
        clusters = tuple(self._cluster(i, cluster) for i, cluster in enumerate(checked.clusters))
        hosts = tuple(self._host(i, host, clusters) for i, host in enumerate(checked.hosts))
        config = Config(
            server=self._server(),
            store_url=self._store_url(),
            cluster_id=checked.cluster.id,
            cluster_name=checked.cluster.name,
            log=LogConfig(checked.log.format, checked.log.level),
            overcommit=_overcommit(checked.overcommit),
            zones=zones,
            clusters=clusters,
            hosts=hosts,
            images=self._catalogue.images,
            model_services=self._catalogue.model_services(),
            image_directory=self._file.path(checked.catalog.image_directory),
            max_upload_size=checked.catalog.max_upload_size,
            least_staging_rate=checked.catalog.least_staging_rate,
            image_copies_budget=checked.catalog.image_copies_budget,
            import_networks=tuple(checked.catalog.import_networks),
            max_import_ms=checked.catalog.max_import_ms,
            container_guest=checked.catalog.container_guest,
            max_unpacked_size=checked.catalog.max_unpacked_size,
            anonymous=Anonymous(checked.identity.anonymous),
            open_scrape=checked.identity.scrape == "local",
            tokens=tuple(token for i, entry in enumerate(checked.tokens) for token in self._token(i, entry)),
            token_files={entry.name: self._file.path(entry.file) for entry in checked.tokens if entry.file},
            devices=device_rules(self._file, hosts),
            quotas=tuple(self._quota(i, section) for i, section in enumerate(checked.quotas)),
            certificates=tuple(Certificate(entry.uri, _caller(entry)) for entry in checked.certificates),
            accounts=tuple(Account(entry.name, entry.password_sha512, _caller(entry)) for entry in checked.accounts),
            access_keys=tuple(AccessKey(entry.id, entry.secret, _caller(entry)) for entry in checked.access_keys),
            webhook_networks=tuple(checked.webhooks.allow),
            credentials={entry.name: entry.options for entry in checked.credentials},
            secrets=tuple(
                Secret(entry.name, self._file.path_text(entry.file), entry.variable, frozenset(entry.projects))
                for entry in checked.secrets
            ),
            secret_keys=tuple(
                SecretKey(entry.name, self._file.path_text(entry.file), entry.variable) for entry in checked.secret_keys
            ),
            rates={rate.project: Rate(rate.calls_per_second, rate.burst) for rate in checked.rate_limits},
            keep_room_after=checked.waiting.keep_room_after,
            hold_seconds=checked.rebalance.hold_seconds,
            priorities={section.project: priority_policy(section) for section in checked.priorities},
        )
        self._boots_files = any(_boots_files(host) for host in hosts)
        self._compare(config)
        return config

    def boot_file_problems(self) -> list[str]:
        """What is wrong with the files of images, where a host would need them."""
        return self._catalogue.file_problems() if self._boots_files else []

    def key_problems(self, keys: Iterable[SecretKey]) -> list[str]:
        """What is wrong with the files of the keys that secrets are encrypted with."""
        return [
            f"{self._file.at('secret_keys', index)}.file: {wrong}"
            for index, key in enumerate(keys)
            if key.file and (wrong := key_problem(key))
        ]

    def _compare(self, config: Config) -> None:
        """What entries of one kind may not have in common."""
        checked = self._file.checked
        self._file.require_unique("zones", "uuid", [zone.uuid for zone in config.zones])
        self._file.require_unique("zones", "name", [zone.name for zone in config.zones])
        self._file.require_unique("credentials", "name", [entry.name for entry in checked.credentials])
        self._file.require_unique("secrets", "name", [entry.name for entry in checked.secrets])
        self._file.require_unique("secret_keys", "name", [entry.name for entry in checked.secret_keys])
        self._file.require_unique("quotas", "project", [quota.project for quota in config.quotas])
        self._file.require_unique("rate_limits", "project", [rate.project for rate in checked.rate_limits])
        self._file.require_unique("priorities", "project", [section.project for section in checked.priorities])
        self._file.require_unique("clusters", "uuid", [cluster.uuid for cluster in config.clusters])
        self._file.require_unique("clusters", "name", [cluster.name for cluster in config.clusters])
        self._file.require_unique("hosts", "uuid", [host.uuid for host in config.hosts])
        self._file.require_unique("hosts", "name", [host.name for host in config.hosts])
        self._file.require_unique("images", "name", [image.name for image in config.images])
        self._catalogue.check_guest(config.container_guest)
        self._file.require_unique("model_services", "uuid", [entry.uuid for entry in config.model_services])
        self._file.require_unique("accounts", "name", [account.name for account in config.accounts])
        self._file.require_unique("access_keys", "id", [key.id for key in config.access_keys])
        for index, zone in enumerate(config.zones):
            for other in config.zones[:index]:
                self._file.tell(
                    f"{self._file.at('zones', index)}.network", clashes(zone.network, other.network, other.name)
                )
        networks = {zone.uuid: zone.network for zone in config.zones}
        for index, host in enumerate(config.hosts):
            wrong = in_zone.bridge_problem(host.bridge, networks.get(host.zone_uuid, Network(kind="bridge")))
            self._file.tell(self._file.at("hosts", index), [FieldViolation("bridge", wrong)] if wrong else ())
            if (twin := kinds.twin_of(host, config.hosts[:index])) is not None:
                self._file.problems.append(
                    f"{self._file.at('hosts', index)}: leads to the same machine as host {twin.name}"
                )

        if config.anonymous is Anonymous.LOOPBACK and config.server.on_loopback:
            self._file.problems += [
                f"{self._file.at('hosts', index)}.zone: guests on a network of kind 'user' reach this machine's "
                'loopback, where identity.anonymous = "loopback" makes every caller an administrator; say "unix" or '
                '"nobody", or choose another network'
                for index, host in enumerate(config.hosts)
                if any(z.uuid == host.zone_uuid and z.network.kind == "user" for z in config.zones)
                and kinds.is_this_machine(host.address)
            ]

    def _server(self) -> ServerConfig:
        section = self._file.checked.server
        admin = section.admin if isinstance(section.admin, ListenAddress) else None
        listeners = {"grpc": section.grpc, "http": section.http, "admin": admin}
        for key, address in listeners.items():
            if address is None or address.local or section.insecure:
                continue
            if section.tls is None or key == "admin":
                if self._file.left_out.may_be("server", key, "tls", "insecure"):
                    continue  # the key was left out because it was wrong, which is told already
                self._file.problems.append(
                    f"server.{key}: {address} can be reached from other machines and has no TLS; "
                    "use a loopback address, unix:<path>, [server.tls], or say server.insecure = true"
                )
            elif self._file.checked.identity.anonymous == "loopback" and "identity" not in self._file.left_out.sections:
                self._file.problems.append(
                    f"server.{key}: {address} can be reached from other machines and asks nobody who they are; "
                    'say identity.anonymous = "nobody" and name tokens, accounts or certificates'
                )
        machines = section.machines if isinstance(section.machines, ListenAddress) else None
        listeners["machines"] = machines  # a token opens what it serves, whoever asks
        used = [str(address) for address in listeners.values() if address is not None and address.port != 0]
        if len(set(used)) != len(used) and "server" not in self._file.left_out.sections:
            self._file.problems.append("server: grpc, http, admin and machines need different addresses")
        return ServerConfig(
            grpc=section.grpc,
            http=section.http,
            admin=admin,
            machines=machines,
            insecure=section.insecure,
            max_message_bytes=section.max_message_bytes,
            max_nodes=section.max_nodes,
            drain_grace_ms=section.drain_grace_ms,
            tls=self._tls(section.tls),
            max_grpc_connections=affordable(section.max_grpc_connections),
            max_http_connections=affordable(section.max_http_connections),
            host_names=tuple(section.host_names),
            trusted_proxies=tuple(section.trusted_proxies),
            unix_mode=int(section.socket_mode, 8),
        )

    def _tls(self, section: schema.TlsSection | None) -> TlsFiles | None:
        if section is None:
            return None
        files = TlsFiles(
            self._file.path(section.certificate),
            self._file.path(section.key),
            self._file.path(section.client_ca) if section.client_ca else None,
        )
        for key, path in (("certificate", files.certificate), ("key", files.key), ("client_ca", files.client_ca)):
            if path is not None and not path.is_file():
                self._file.problems.append(f"server.tls.{key}: {path} is not a file")
        return files

    def _store_url(self) -> str:
        url = self._file.checked.store.url
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in ("sqlite", "postgresql+psycopg"):
            self._file.problems.append(
                "store.url: allowed: sqlite:///<path>, sqlite:// (memory), postgresql+psycopg://…"
            )
            return ""
        if scheme == "sqlite" and rest:
            if not rest.startswith("/") or len(rest) == 1:
                self._file.problems.append("store.url: sqlite:///<path>, with three slashes before a relative path")
                return ""
            return f"sqlite:///{self._file.path(rest[1:])}"
        return url

    def _zone_uuid(self, where: str, said: str) -> str:
        """The uuid of the zone that an entry names by name or uuid; empty where there is none."""
        zones = {zone.uuid: zone.uuid for zone in self._file.checked.zones} | {
            z.name: z.uuid for z in self._file.checked.zones
        }
        key = plain_uuid(said) or said
        if key not in zones and not {key, said} & self._file.left_out.names("zones"):
            self._file.problems.append(
                f"{where}.zone: no zone {said!r}; {known(zone.name for zone in self._file.checked.zones)}"
            )
        return zones.get(key, "")

    def _cluster(self, index: int, section: schema.HostClusterSection) -> Cluster:
        zone_uuid = self._zone_uuid(self._file.at("clusters", index), section.zone)
        return Cluster(section.uuid, section.name, zone_uuid, section.description)

    def _check_cluster(self, where: str, uuid: str, zone_uuid: str, clusters: Iterable[Cluster]) -> None:
        there = {cluster.uuid: cluster for cluster in clusters}
        if not uuid or uuid in self._file.left_out.names("clusters"):
            return
        if uuid not in there:
            told = known(f"{cluster.name} ({cluster.uuid})" for cluster in there.values())
            self._file.problems.append(f"{where}.cluster_uuid: no cluster {uuid} in [[clusters]]; {told}")
        elif zone_uuid and there[uuid].zone_uuid not in ("", zone_uuid):
            self._file.problems.append(
                f"{where}.cluster_uuid: cluster {there[uuid].name} is of another zone than the host"
            )

    def _host(self, index: int, section: schema.HostSection, clusters: Iterable[Cluster]) -> Host:
        where = self._file.at("hosts", index)
        zone_uuid = self._zone_uuid(where, section.zone)
        self._check_cluster(where, section.cluster_uuid, zone_uuid, clusters)
        address = HostAddress(
            driver=section.driver,
            transport=section.transport,
            address=section.address,
            port=section.port,
            socket=section.socket,
            username=section.username,
            options=section.options,
        )
        self._file.tell(where, kinds.violations(address, in_file=True))
        of_zone = next((z.seed_url for z in self._file.checked.zones if z.uuid == zone_uuid), "")
        self._file.tell(where, in_zone.violations(address, of_zone))
        self._file.tell(where, kinds.capacity_violations(section.driver, section.capacity))
        overcommit = _overcommit(section.overcommit)
        self._file.tell(where, kinds.whole_violations(address, overcommit, section.bridge, "overcommit"))
        host = Host(
            uuid=section.uuid
            or uuid.uuid5(_HOST_NAMESPACE, f"{self._file.checked.cluster.id or LEGACY_CLUSTER}/{section.name}").hex,
            name=section.name,
            zone_uuid=zone_uuid,
            cluster_uuid=section.cluster_uuid,
            address=address,
            machine_type=kinds.machine_type(address),
            rack=section.rack,
            labels=section.labels,
            overcommit=overcommit,
            capacity_override=section.capacity,
            bridge=section.bridge,
            state=HostState(section.state),
            bmc=_bmc(section.bmc),
        )
        self._file.tell(where, kinds.bmc_violations(host, in_file=True))
        return host

    def _token(self, index: int, entry: schema.TokenSection) -> Iterator[Token]:
        """The token; none where its file is not there: then nobody has it."""
        sha256 = entry.sha256
        if entry.file:
            try:
                text = self._file.path(entry.file).read_text(encoding="utf-8").strip()
            except FileNotFoundError:
                return
            except (OSError, UnicodeDecodeError):
                self._file.problems.append(f"{self._file.at('tokens', index)}.file: cannot be read")
                return
            if len(text) < SHORTEST_TOKEN:
                self._file.problems.append(
                    f"{self._file.at('tokens', index)}.file: holds less than {SHORTEST_TOKEN} characters"
                )
                return
            sha256 = hashlib.sha256(text.encode()).hexdigest()
        yield Token(sha256, _caller(entry))

    def _quota(self, index: int, section: schema.QuotaSection) -> Quota:
        limits = {VCPU: section.cpu, MEMORY: section.memory}
        named = {name: limit for name, limit in limits.items() if limit is not None}
        for model in section.gpus:
            self._file.tell(self._file.at("quotas", index), gpu_model_violation(model, f"gpus[{model}]"))
        return Quota(section.project, {**named, **{f"{GPU}{model}": count for model, count in section.gpus.items()}})

    def _zone(self, index: int, section: schema.ZoneSection) -> Zone:
        said = section.network
        network, wrong = network_of(
            NetworkWish(
                said.kind,
                said.source,
                said.subnet,
                said.gateway,
                said.pool,
                tuple(said.pools),
                said.isolation,
                tuple(said.reachable),
            )
        )
        self._file.tell(f"{self._file.at('zones', index)}.network", wrong)
        given = {"seed_url": section.seed_url, "report_url": section.report_url}
        no_base = (FieldViolation(name, NO_BASE) for name, url in given.items() if url and not is_base(url))
        self._file.tell(self._file.at("zones", index), no_base)
        return Zone(
            uuid=section.uuid,
            name=section.name,
            description=section.description,
            network=network,
            overcommit=_overcommit(section.overcommit),
            image_copies_budget=section.image_copies_budget,
            seed_url=section.seed_url,
            report_url=section.report_url,
        )


def _bmc(section: BmcSection | None) -> Bmc | None:
    if section is None:
        return None
    options = {name: getattr(section, name) for name in ("password_file", "ca_file", "fingerprint", "system")}
    address = HostAddress(
        "redfish",
        "tls",
        section.address,
        section.port,
        username=section.username,
        options={name: value for name, value in options.items() if value},
    )
    return Bmc(address, Fencing(section.fencing))


def _overcommit(section: schema.OvercommitSection) -> Overcommit:
    ratios = {VCPU: section.cpu, MEMORY: section.memory}
    reserved = {VCPU: section.reserved_cpu, MEMORY: section.reserved_memory}
    return Overcommit(
        {name: value for name, value in ratios.items() if value is not None},
        {name: value for name, value in reserved.items() if value is not None},
    )


def _caller(
    entry: schema.TokenSection | schema.CertificateSection | schema.AccountSection | schema.AccessKeySection,
) -> Caller:
    return Caller(entry.name, entry.project, entry.role)


def _boots_files(host: Host) -> bool:
    kind = kinds.KINDS.get(host.address.driver)
    return kind is not None and kind.boots_files
