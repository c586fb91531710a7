"""The types of what a transaction's work is handed, for those who may not know the library behind them."""

from sqlalchemy import Connection, Table

__all__ = ["Connection", "Table"]
