"""What came of an effect, and what a lease remembers of the calls that it has sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from service.domain.groups import Group
from service.lifecycle.facts import Fact
from service.reconcile.moves import Trail


@dataclass(slots=True)
class EffectResult:
    """What came of an effect. `retry`: do it again after a pause; `reload`: the stored group changed; `stored`: to
    this."""

    facts: Sequence[Fact] = field(default_factory=tuple)
    retry: bool = False
    reload: bool = False
    stored: Group | None = None


@dataclass(slots=True)
class Sends:
    """What this lease knows of creates, as (instance, attempt): which it dispatched itself, and which may have arrived.

    Only an attempt that was dispatched under this very lease can be known never to have been sent.
    """

    dispatched: set[tuple[str, int]] = field(default_factory=set)
    maybe_arrived: set[tuple[str, int]] = field(default_factory=set)
    moves: Trail = field(default_factory=Trail)
