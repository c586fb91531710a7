"""Alembic's home: `versions/` changes deployed databases, `upgrade` brings one to the newest."""

from __future__ import annotations

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine

_HERE = Path(__file__).parent


def upgrade(engine: Engine) -> None:
    """Bring the database to the newest schema; an up-to-date one is left alone. Safe to call at every start."""
    logging.getLogger("alembic").setLevel(logging.WARNING)  # its setup lines say nothing to an operator
    config = Config()
    config.set_main_option("script_location", str(_HERE))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
