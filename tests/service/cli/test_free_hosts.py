"""`corral rebalance --goal free-hosts` shows which hosts would become free, and has their members moved."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.cli import errors
from tests.service.cli.test_on_a_service import corral
from tests.service.rpc.test_rebalance import homes, one_each
from tests.support.whole import config_text, whole


@pytest.mark.asyncio
async def test_hosts_that_become_free_are_shown_with_what_is_possible_and_freed_where_it_is_said(
    tmp_path: Path,
) -> None:
    async with whole(tmp_path, config_text(hosts=3)) as lab:
        groups, _ = await one_each(lab)
        status, out, _ = await corral(lab, "rebalance", "--goal", "free-hosts")
        assert status == errors.OK
        assert "1 member moves, 1 GiB of memory (proven the best that so many moves can do):" in out
        assert ", frees its host)" in out
        assert "1 host becomes free (so many moves free 1 at most)" in out
        status, _, told = await corral(lab, "rebalance", "--goal", "free-hosts", "--threshold", "30")
        assert status != errors.OK
        assert "threshold_percent" in told
        status, out, _ = await corral(lab, "rebalance", "--goal", "free-hosts", "--run")
        assert status == errors.OK
        assert "moved  " in out
        first, second = await homes(lab, groups)
        assert first == second
        assert "nothing is gained by a move" in (await corral(lab, "rebalance", "--goal", "free-hosts"))[1]
