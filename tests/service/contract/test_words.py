"""What refusals say: enough to act upon, for callers who read the message alone."""

from __future__ import annotations

import pytest
from google.rpc import error_details_pb2

from placement.model import Cure, Explanation, NearestMiss, Shortage
from placement.outcome import CureKind
from service import errors
from service.contract.status import status_of


def metadata(error: errors.CorralError) -> dict[str, str]:
    info = error_details_pb2.ErrorInfo()
    assert status_of(error, "r").details[0].Unpack(info)
    return dict(info.metadata)


@pytest.mark.parametrize(
    ("cure", "words"),
    [
        (Cure(CureKind.SHRINK, count=2), "it would fit with 2 members instead of 4"),
        (Cure(CureKind.ADD_HOSTS, host="h", count=1), "it would fit with 1 more hosts like h"),
        (Cure(CureKind.FREE, host="h", amounts=(Shortage("vcpu", 3),)), "it would fit with 3 vcpu more free on host h"),
        (Cure(CureKind.WAIT), "it would fit once other guests are gone"),
        (Cure(CureKind.RELAX), "it would fit without the rules of its policy"),
    ],
)
def test_a_gang_that_does_not_fit_is_told_the_nearest_miss_and_the_first_cure(cure: Cure, words: str) -> None:
    explanation = Explanation(
        message="no room",
        total=4,
        nearest=NearestMiss("model_services[2]", "host-1", (Shortage("vcpu", 3),)),
        cures=(cure, Cure(CureKind.WAIT)),
    )
    told = status_of(errors.NoCapacity("no room", explanation), "r").message
    assert told == f"no room; host host-1 lacks 3 vcpu for model_services[2]; {words}"


def test_hosts_are_told_by_their_names_where_these_are_known() -> None:
    miss = NearestMiss("model_services[2]", "5" * 32, (Shortage("vcpu", 3),), "host-1")
    cures = (Cure(CureKind.FREE, host="5" * 32, amounts=(Shortage("vcpu", 3),), host_name="host-1"),)
    error = errors.NoCapacity("no room", Explanation(message="no room", total=4, nearest=miss, cures=cures))
    told = status_of(error, "r").message
    assert told == (
        "no room; host host-1 lacks 3 vcpu for model_services[2]; it would fit with 3 vcpu more free on host host-1"
    )


def test_a_quota_says_what_is_held_and_what_is_asked_for() -> None:
    error = errors.QuotaExceeded("project red", "vcpu", 16, 20, 12)
    assert error.message == "quota of project red for vcpu is 16, 12 held and 8 asked for are 20"
    memory = errors.QuotaExceeded("project red", "memory", 300 << 30, 878 << 30, 158 << 30)
    assert (
        memory.message == "quota of project red for memory is 300 GiB, 158 GiB held and 720 GiB asked for are 878 GiB"
    )
    assert metadata(error)["held"] == "12"
    assert "held" not in metadata(errors.QuotaExceeded("project red", "vcpu", 16, 20))


def test_a_wrong_state_lists_the_allowed_ones() -> None:
    error = errors.WrongState("group g", "Stopped", "it to be Running or Degraded", ["Running", "Degraded"])
    assert error.message == "group g is Stopped; the call needs it to be Running or Degraded"
    assert metadata(error)["allowed"] == "Degraded,Running"
    assert metadata(errors.WrongState("zone z", "in use", "an empty one"))["allowed"] == "an empty one"
