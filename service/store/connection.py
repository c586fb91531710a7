"""The types of what a transaction's work is handed, for rooms that may not import SQLAlchemy."""

from sqlalchemy import Connection, Table

__all__ = ["Connection", "Table"]
