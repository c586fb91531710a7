"""The supervisor's text: one shell program for every guest, delivered beside the documents."""

from __future__ import annotations

from importlib.resources import files

NAME = "supervisor"
"""What its document is called."""

SUPERVISOR = files("service.serving").joinpath("supervisor.sh").read_text(encoding="utf-8")
