"""A real engine in real guests: llama.cpp's RPC servers, a head over its own client library, asked from outside."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.lab.fixtures import capability_cache
from tests.lab.fleet import Lab
from tests.lab.requirements import why_not
from tests.serving.llama import engine
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


def test_one_deploy_makes_a_group_whose_url_answers_rightly_and_its_deletion_leaves_nothing(served: Site) -> None:
    group = served.corral.follow(served.deploy())
    assert group.status == "Running"
    assert len({m.host_name for m in group.instances}) == 3
    prompt = random.choice(LETTERS)
    assert served.ask(group, prompt, 12) == served.model.ring.completion(prompt, 12)
    assert served.corral.delete(group.uuid).status == "Deleted"
    assert leftovers(served.lab) == []
