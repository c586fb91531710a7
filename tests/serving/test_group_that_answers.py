"""A real engine in real guests: llama.cpp's RPC servers, a head over its own client library, asked from outside."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator

import pytest
from corral.v1 import group_pb2

from tests.lab.fixtures import capability_cache
from tests.lab.fleet import Lab
from tests.lab.requirements import why_not
from tests.serving.harm import HEAD, Harm
from tests.serving.llama import engine
from tests.serving.observer import Observer
from tests.serving.oracle import LETTERS, Ring
from tests.serving.site import Site, build_model, leftovers, site

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def served(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The service on three hypervisors, with a model that was made for this run."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    programs = engine()
    if not all(file.is_file() for file in programs.programs(server=False)):
        pytest.skip("the engine is not built: python -m tests.serving.llama")
    directory = tmp_path_factory.mktemp("serving")
    model = build_model(directory, programs, Ring.drawn(random.randrange(1 << 30)), head=programs.small_head)
    with Lab(3, capability_cache(pytestconfig), "10.82") as lab, site(lab, model, directory / "service") as made:
        yield made


def test_one_deploy_makes_a_group_that_answers_rightly_heals_when_its_head_dies_and_leaves_nothing(
    served: Site,
) -> None:
    again = group_pb2.FailurePolicy(action=group_pb2.FAILURE_ACTION_RESTART_MEMBER)
    group = served.corral.follow(served.deploy(failure_policy=again))
    assert group.status == "Running"
    assert len({m.host_name for m in group.instances}) == 3
    prompt = random.choice(LETTERS)
    assert served.ask(group, prompt, 12) == served.model.ring.completion(prompt, 12)
    with Observer(served, group.uuid, group.instances[0].addresses[0]) as seen:
        assert seen.settled(0.5, 120)
        began = time.monotonic()
        # Its workers keep a connection to it for ever: they are told of the group's next start as they run.
        Harm(served, group).machine(HEAD, signal.SIGKILL)
        assert seen.noticed(began, 60) < float("inf")
        assert seen.healed(began, 1.0, 300) < float("inf"), seen.statuses
    assert seen.wrong == []
    after = served.get(group.uuid)
    assert [m.attempt for m in after.instances] == [1, 1, 1], "it was started again where it is"
    assert [m.vm_instance_uuid for m in after.instances] == [m.vm_instance_uuid for m in group.instances]
    assert after.instances[0].HasField("last_answer")
    assert served.corral.delete(group.uuid).status == "Deleted"
    assert leftovers(served.lab) == []
