"""`python -m service serve --config FILE`: the one way in; and what is done with a database that nobody serves."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from service.config.file import Config, ConfigError, Overlay, load, printed, warnings
from service.errors import CorralError
from service.store.sqlite_file import DatabaseLocked
from service.telemetry import logs, traces

# How long a thread that computes keeps the interpreter while others wait. With Python's default of 5 ms the event loop
# waits that long for the store's threads, several times a call.
SWITCH_SECONDS = 0.0002


def keep_what_started() -> None:
    """A full collection would look each time at all modules, descriptors and tables of the start, which stay for good:
    some 100 ms in which nothing is answered."""
    gc.collect()
    gc.freeze()


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 after an orderly end, 2 for a configuration that cannot be used, 1 for a start that failed."""
    parser = argparse.ArgumentParser(prog="python -m service", description="The Corral control plane.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="serve until SIGTERM or Ctrl-C; SIGHUP reads the configuration again")
    commands.add_parser("check-config", help="read the configuration and say everything that is wrong with it")
    commands.add_parser("print-config", help="print the configuration that holds, with defaults, without secrets")
    recover = commands.add_parser(
        "recover",
        help="write a lost or old database again from what its hosts show; without --write it only shows",
        epilog="exit codes: 0 nothing is left to write, 1 it cannot be done, 2 wrong usage or configuration, "
        "3 shown, and --write would write it, 4 not all of it can be recovered",
    )
    recover.add_argument("--write", action="store_true", help="write it; no service may have the database meanwhile")
    recover.add_argument("--output", choices=("text", "json"), default="text", help="how to show it (default: text)")
    recover.add_argument("--cluster-id", default="", help="of the lost installation, where hosts show several")
    recover.add_argument("--database-id", default="", help="of the lost installation, where hosts bear several marks")
    backup = commands.add_parser("backup", help="copy the SQLite database as of one moment, also while it is served")
    backup.add_argument("file", type=Path, help="the copy; must not be there yet, and gets mode 0600")
    for command in commands.choices.values():
        command.add_argument("--config", type=Path, required=True, help="the configuration file (TOML)")
        command.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="SECTION.KEY=VALUE",
            help="stands over the file, and over $CORRAL_SECTION_KEY of the environment (repeatable)",
        )
    options = parser.parse_args(arguments)
    overlay = Overlay(os.environ, options.set)
    try:
        if options.command == "print-config":
            print(printed(options.config, overlay), end="")
            return 0
        config = load(options.config, overlay)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    for warning in warnings(config):
        print(f"{options.config}: warning: {warning}", file=sys.stderr)
    if options.command == "check-config":
        print(f"{options.config}: {len(config.zones)} zones, {len(config.hosts)} hosts, "
              f"{len(config.model_services)} model services")  # fmt: skip
        return 0
    logs.configure(config.log.format, config.log.level)
    if options.command == "recover":
        return _recover(config, options)
    if options.command == "backup":
        return _backup(config, options.file)
    sys.setswitchinterval(SWITCH_SECONDS)
    traces.configure()
    return asyncio.run(_serve(config, options.config, overlay))


def _recover(config: Config, options: argparse.Namespace) -> int:
    from service.recovering import CannotRecover, Exit, as_json, as_text, recover
    from service.wiring import StartError

    try:
        outcome = recover(config, write=options.write, cluster=options.cluster_id, database=options.database_id)
    except (CannotRecover, StartError, DatabaseLocked, CorralError) as error:
        print(f"nothing can be recovered now: {error}", file=sys.stderr)
        return Exit.CANNOT
    print(as_json(outcome) if options.output == "json" else as_text(outcome))
    return outcome.exit_code


def _backup(config: Config, target: Path) -> int:
    from service.store.offline import NoBackup, backup

    try:
        size = backup(config.store_url, target)
    except NoBackup as error:
        print(f"no backup was made: {error}", file=sys.stderr)
        return 1
    print(f"{target}: {size} bytes")
    return 0


async def _serve(config: Config, path: Path, overlay: Overlay) -> int:
    from service.listening import AddressUnavailable
    from service.notifying import Notifier
    from service.process import Process
    from service.reload import reload
    from service.wiring import Service, StartError

    notifier = Notifier()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    hangup = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    try:
        process = Process(Service(config))
    except (StartError, DatabaseLocked, CorralError) as error:
        print(f"corral cannot start: {error}", file=sys.stderr)
        return 1
    try:
        await process.start()
    except (StartError, AddressUnavailable, CorralError) as error:
        print(f"corral cannot start: {error}", file=sys.stderr)
        await process.stop()
        return 1
    keep_what_started()
    status = f"serving gRPC at {process.service.rpc.address}, HTTP at {process.http_address}"

    async def take_over() -> None:
        notifier.reloading()
        await reload(process.service, path, overlay)
        notifier.ready(status)

    beside = [asyncio.create_task(_at_each(hangup, take_over)), asyncio.create_task(notifier.beat())]
    notifier.ready(status)
    await stop.wait()
    notifier.stopping()
    beside[0].cancel()
    await process.stop()
    beside[1].cancel()
    return 0


async def _at_each(signalled: asyncio.Event, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        await signalled.wait()
        signalled.clear()
        await work()


if __name__ == "__main__":
    sys.exit(main())
