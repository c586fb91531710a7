"""What all tables have in common: their metadata, the names of constraints, and the types of columns."""

from __future__ import annotations

from sqlalchemy import (
    MetaData,
    String,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

UUID = String(32)
WORD = String(64)
