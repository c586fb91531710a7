"""The configuration: a TOML file and what stands over it in, checked domain types out. It reads files and nothing else.

`load` reads a file, `parse` a text. Every error names the key by its path (`hosts[2].zone`) and says what is allowed.
All errors of a file are told at once: a key with a wrong value is left out, and the rest is checked all the same.
Relative paths start at the directory of the file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from service.config import schema
from service.config.build import Builder
from service.config.left_out import LeftOut
from service.config.overlay import NOTHING, Overlay, named
from service.config.printed import text
from service.config.problems import describe
from service.config.sections import Sections, known
from service.config.settings import Config
from service.domain.environment import unknown_secrets
from service.domain.tenants import Anonymous
from service.drivers import kinds

__all__ = ["Config", "ConfigError", "Overlay", "load", "parse", "printed", "warnings"]


class ConfigError(Exception):
    """The configuration cannot be used. `problems`: one line each, the key's path first."""

    def __init__(self, source: str, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        super().__init__("\n".join([f"{source}: {count} problem(s)", *(f"  {line}" for line in self.problems)]))


def load(path: Path, overlay: Overlay = NOTHING) -> Config:
    """The configuration in the file at `path`; boot files that a host would need must exist and be what they should.

    `overlay`: what stands over the file. Raises ConfigError.
    """
    return _read(_text(path), path.resolve().parent, str(path), boot_files=True, overlay=overlay)[0]


def printed(path: Path, overlay: Overlay = NOTHING) -> str:
    """What holds, as TOML with every default and without what is secret. Raises ConfigError."""
    return text(_read(_text(path), path.resolve().parent, str(path), boot_files=False, overlay=overlay)[1])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(str(path), [f"cannot be read: {problem}"]) from problem


def parse(text: str, directory: Path, *, source: str = "configuration") -> Config:
    """The configuration in `text`; relative paths count from `directory`. Raises ConfigError."""
    return _read(text, directory, source, boot_files=False)[0]


def warnings(config: Config) -> tuple[str, ...]:
    """What is allowed but may not work as its author thinks, one line each."""
    found = []
    if config.store_url.startswith("postgresql"):
        found += [
            f"hosts[{index}]: {host.name} is in the memory of each process: replicas that share the database would "
            "each see another host; give it options.state_file, or run one process"
            for index, host in enumerate(config.hosts)
            if kinds.KINDS[host.address.driver].in_memory(host.address)
        ]
    if config.anonymous is Anonymous.LOOPBACK and (config.tokens or config.accounts or config.certificates):
        found.append(
            "identity.anonymous: who shows nothing is an administrator, whatever tokens and accounts there are"
        )
    secrets = {secret.name for secret in config.secrets}
    found += [
        f"model_services.{entry.name}.environment.{variable}: there is no secret {secret} in [[secrets]]; each project "
        "that deploys it must have stored one of that name"
        for entry in config.model_services
        for variable, secret in unknown_secrets(entry.environment, secrets.__contains__)
    ]
    found += _of_callers(config)
    found += [*_of_rules(config), *_of_partitions(config)]
    keys = {
        f"credentials.{name}": Path(p)
        for name, of in config.credentials.items()
        for o, p in of.items()
        if o != "ca_file"
    }
    boards = {host.name: host.bmc.address.options for host in config.hosts if host.bmc is not None}
    keys |= {f"hosts.{name}.bmc.password_file": Path(of.get("password_file", "")) for name, of in boards.items()}
    keys |= {f"tokens.{name}": path for name, path in config.token_files.items()}
    found += [
        f"tokens.{name}: there is no file {path}, so that nobody has this token"
        for name, path in config.token_files.items()
        if not path.exists()
    ]
    if config.server.tls is not None:
        keys["server.tls.key"] = config.server.tls.key
    found += [f"{key}: others can read {path}; take their rights away" for key, path in keys.items() if _is_open(path)]
    return tuple(found)


def _of_callers(config: Config) -> Iterator[str]:
    """What is said of callers whom nobody can be."""
    callers = [
        *(token.caller for token in config.tokens),
        *(certificate.caller for certificate in config.certificates),
        *(account.caller for account in config.accounts),
        *(key.caller for key in config.access_keys),
    ]
    if config.anonymous is Anonymous.NOBODY and not callers and not config.token_files:
        yield "identity.anonymous: nobody may call: there are no tokens, certificates, accounts or access keys"
    projects = {caller.project for caller in callers} | {"default"}
    for section, named_in in (
        ("quotas", [quota.project for quota in config.quotas]),
        ("rate_limits", [project for project in config.rates if project]),
        ("priorities", [project for project in config.priorities if project]),
    ):
        yield from (
            f"{section}: nobody calls for project {project}; there are: {', '.join(sorted(projects))}"
            for project in named_in
            if project not in projects
        )


def _of_rules(config: Config) -> Iterator[str]:
    """Which rules of devices name hosts that the file does not have, or of which no rule is needed to count devices."""
    of_hosts = {host.name: kinds.KINDS[host.address.driver] for host in config.hosts}
    for index, rule in enumerate(config.devices.rules):
        for name in sorted(set(rule.hosts)):
            if name not in of_hosts:
                yield (
                    f"devices[{index}].hosts: there is no host {name!r} in [[hosts]]: the rule is about one that a "
                    f"call adds by that name; {known(of_hosts)}"
                )
            elif of_hosts[name].counts_devices:
                kind = of_hosts[name].name
                yield f"devices[{index}].hosts: {name!r} is of kind {kind}, whose devices are only counted"


def _of_partitions(config: Config) -> Iterator[str]:
    """Which devices of partitions are given to nobody, so that a partition joins fewer than its author thinks."""
    of_hosts = {host.name: kinds.KINDS[host.address.driver] for host in config.hosts}
    for one in config.devices.partitions:
        where, kind = f"hosts.{one.host}.partitions.{one.name}", of_hosts[one.host]
        if kind.counts_devices:
            yield f"{where}: {kind.name} hosts' devices are only counted: nobody is given them by partition"
        elif not kind.offers_devices:
            yield from (
                f"{where}.devices: no rule of [[devices]] offers {address} of this host: the partition is without it"
                for address in one.addresses
                if not config.devices.may_offer(one.host, address)
            )


def _is_open(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & 0o044)
    except OSError:
        return False  # what is not there is told elsewhere


def _read(
    text: str, directory: Path, source: str, *, boot_files: bool, overlay: Overlay = NOTHING
) -> tuple[Config, schema.Configuration]:
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise ConfigError(source, [f"not TOML: {problem}"]) from problem
    raw, givers, problems = overlay.over(raw)
    left_out = LeftOut()
    checked = _checked(raw, problems, left_out)
    if checked is None:
        raise ConfigError(source, named(problems, givers))
    sections = Sections(checked, directory, left_out)
    builder = Builder(sections)
    config = builder.build()
    problems += sections.problems
    if boot_files:
        problems += builder.boot_file_problems()
        problems += builder.key_problems(config.secret_keys) if config is not None else []
    if problems or config is None:
        raise ConfigError(source, named(problems, givers))
    return config, checked


def _checked(raw: dict[str, Any], problems: list[str], left_out: LeftOut) -> schema.Configuration | None:
    """The sections of the file. What is wrong by itself is told and left out; None where the rest cannot be checked."""
    try:
        return schema.Configuration.model_validate(raw)
    except ValidationError as problem:
        errors = problem.errors(include_url=False)
    problems += [describe(dict(error)) for error in errors]
    try:
        return schema.Configuration.model_validate(left_out.without(raw, [error["loc"] for error in errors]))
    except ValidationError:
        return None
