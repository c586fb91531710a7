"""What tests of several rooms share: the source's objects and whole parts of it, processes, databases."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
