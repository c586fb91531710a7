"""Has the engine decide a mode's questions, in this process and one after another."""

from __future__ import annotations

from placement.engine import DEFAULT, place
from placement.model import Policy
from placement.modes.drain import Drain, Steps
from placement.stop import Stop, never


def answered(steps: Steps, policy: Policy = DEFAULT, stop: Stop = never) -> Drain:
    """What a drain ends with."""
    try:
        question = next(steps)
        while True:
            question = steps.send(place(question.snapshot, question.request, policy, stop))
    except StopIteration as done:
        result: Drain = done.value
        return result
