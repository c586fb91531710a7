"""Settings of these tests alone."""

from __future__ import annotations

from hypothesis import settings

# A busy machine is not a failure: no example has a deadline.
settings.register_profile("corral", deadline=None)
settings.load_profile("corral")
