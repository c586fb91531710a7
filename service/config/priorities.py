"""[[priorities]]: how important the groups of a project may be, and who ends for whom."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from service.config.credentials import STRICT
from service.config.values import OptionalName
from service.domain.preemption import PriorityPolicy, Victims


class PrioritySection(BaseModel):
    """[[priorities]]: the highest priority that a project may use, whose groups its own may evict, and how its own are
    evicted; without `project`, for all that are not named."""

    model_config = STRICT
    project: OptionalName = ""
    most: Annotated[int, Field(ge=-1000, le=1000)]
    preempts: list[Annotated[str, Field(pattern=r"^(\*|[^\s*]{1,64})$")]] = []
    preemptible: bool = True
    least_run: Annotated[int, Field(ge=0, le=90 * 86_400)] = 600
    eviction_delay: Annotated[int, Field(ge=0, le=86_400)] = 60
    victims: Literal["wait", "stop", "delete"] = "wait"


def priority_policy(section: PrioritySection) -> PriorityPolicy:
    return PriorityPolicy(
        section.most,
        tuple(section.preempts),
        section.preemptible,
        1000 * section.least_run,
        1000 * section.eviction_delay,
        Victims(section.victims),
    )
