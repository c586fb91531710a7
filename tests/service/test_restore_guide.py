"""The commands of the guide for a backup, its way back, and what was done since, as they stand there, line by line."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.lab.namespaces import wait_until
from tests.service.test_recovering import configuration, deploy, groups, machines, plain, statuses
from tests.support import ROOT
from tests.support.postgres import USER, Postgres
from tests.support.process import ENVIRONMENT, CorralProcess

INSTALLED = "/opt/corral/bin/python"


def blocks() -> list[list[str]]:
    """Those of "Back up and restore": SQLite's copy and its way back, PostgreSQL's, and the recovery."""
    section = (ROOT / "deploy/README.md").read_text().partition("## Back up and restore\n")[2].partition("\n## ")[0]
    found = re.findall(r"^```sh\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)
    return [[line.split("  #")[0].strip() for line in block.splitlines()] for block in found]


def test_the_guide_has_a_block_for_each_step() -> None:
    assert [len(block) for block in blocks()] == [2, 4, 1, 2, 2]


class Operator:
    """Who types the guide's lines. `places`: what the guide says -> what it is here."""

    def __init__(self, corral: CorralProcess, places: Mapping[str, str], **environment: str) -> None:
        self._corral = corral
        self._places = {
            "runuser -u corral -- ": "",  # there is no such user here
            INSTALLED: sys.executable,
            "/etc/corral/corral.toml": str(corral.configuration),
            "/var/lib/corral": str(corral.directory),
            "corral recover": f"{sys.executable} -m service.cli recover",
            **places,
        }
        self._environment = {**os.environ, **ENVIRONMENT, **environment}

    def types(self, lines: list[str], code: Callable[[str], int] = lambda line: 0) -> None:
        """Line by line in one directory. `code`: how each has to end."""
        for line in lines:
            if line == "systemctl stop corral":
                self._corral.stop()
                continue
            here = line
            for told, place in self._places.items():
                here = here.replace(told, place)
            done = subprocess.run(
                ["bash", "-c", here],
                cwd=self._corral.directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == code(line), f"{line}: {done}"


def shown(line: str) -> int:
    """What is shown and not written ends with 3."""
    return 0 if line.endswith("--write") else 3


def test_sqlite_is_copied_put_back_and_recovered_by_the_guides_lines(tmp_path: Path) -> None:
    corral = CorralProcess(tmp_path, configuration(tmp_path))
    corral.start()
    try:
        deploy(corral, "before")
        copy, back, _, _, recover = blocks()
        operator = Operator(corral, {})
        operator.types(copy)
        assert stat.S_IMODE((tmp_path / "corral-backup.db").stat().st_mode) == 0o600
        deploy(corral, "since")
        whole, there = {uuid: plain(one) for uuid, one in groups(corral).items()}, machines(corral)
        operator.types(back)
        assert stat.S_IMODE(corral.database.stat().st_mode) == 0o600
        goes_on(corral, operator, recover, there, whole)
        assert (tmp_path / "lost/corral.db").exists(), "what was there is kept"
    finally:
        corral.kill()


def test_postgresql_is_dumped_put_back_and_recovered_by_the_guides_lines(
    tmp_path: Path, postgres: Postgres, database: str
) -> None:
    if shutil.which("pg_dump") is None:
        pytest.skip("no PostgreSQL's own programs")
    corral = CorralProcess(tmp_path, configuration(tmp_path))
    corral.use_store(postgres.url(database))
    restored = f"{database}_restored"
    corral.start()
    try:
        deploy(corral, "before")
        _, _, dump, restore, recover = blocks()
        places = {
            "corral_restored": restored,
            "--file corral.dump corral": f"--file corral.dump {database}",
            "--owner corral ": f"--owner {USER} ",
        }
        operator = Operator(corral, places, PGHOST=str(postgres.directory), PGUSER=USER)
        operator.types(dump)
        assert stat.S_IMODE((tmp_path / "corral.dump").stat().st_mode) == 0o600
        deploy(corral, "since")
        whole, there = {uuid: plain(one) for uuid, one in groups(corral).items()}, machines(corral)
        corral.stop()
        operator.types(restore)
        corral.use_store(postgres.url(restored))
        corral.configure()
        goes_on(corral, operator, recover, there, whole)
    finally:
        corral.kill()
        postgres.query(f'DROP DATABASE IF EXISTS "{restored}" WITH (FORCE)')


def goes_on(
    corral: CorralProcess,
    operator: Operator,
    recover: list[str],
    there: dict[str, tuple[str, str, float]],
    whole: dict[str, dict[str, object]],
) -> None:
    """It is noticed that the copy is old; then all is known again, and no machine was touched."""
    corral.start()
    wait_until(lambda: statuses(corral) == {"Ahead"}, 60, "the hosts to be ahead")
    assert machines(corral) == there, "nothing is done to anything before it is recovered"
    corral.stop()
    operator.types(recover, shown)
    corral.start()
    wait_until(lambda: {one.status for one in groups(corral).values()} == {"Running"}, 60, "all groups to run")
    assert {uuid: plain(one) for uuid, one in groups(corral).items()} == whole
    assert machines(corral) == there
