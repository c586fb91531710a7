"""What tests of several rooms share: domain objects, whole parts of the service, processes, databases."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
