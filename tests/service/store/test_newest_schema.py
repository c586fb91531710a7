"""A start knows whether its database is up to date without Alembic, which it imports only to change one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from alembic.migration import MigrationContext

from service.store import migrations
from tests.support.database import Database


def test_the_newest_revision_is_the_one_that_alembic_goes_to(db: Database) -> None:
    assert db.read(lambda c: MigrationContext.configure(c).get_current_revision()) == migrations.newest()
    assert migrations.is_newest(db.store.engine)


def test_a_start_on_a_database_that_is_up_to_date_does_not_import_alembic(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/corral.db"
    with Database(url, migrate=True):
        pass
    start = (
        "import sys\nfrom service import wiring\nfrom service.store.engine import Store\n"
        f"store = Store({url!r})\nwiring.upgrade(store.engine)\nstore.close()\n"
        "assert 'alembic' not in sys.modules, 'imported'\n"
    )
    subprocess.run([sys.executable, "-c", start], check=True, env={**os.environ, "PYTHONPATH": ".:protos"})
