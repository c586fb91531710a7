"""A service as ever whose planner may take a minute: what a page shows does not depend on how busy the machine is.

python -m tests.web.patient_service serve --config FILE
"""

from __future__ import annotations

import sys
from functools import partial
from unittest.mock import patch

from service.__main__ import main
from service.app.group_intents import GroupLimits
from service.reconcile.context import WorkerContext

PLAN_SECONDS = 60.0

if __name__ == "__main__":
    limits = partial(GroupLimits, plan_seconds=PLAN_SECONDS)
    context = partial(WorkerContext, plan_seconds=PLAN_SECONDS)
    with patch("service.wiring.GroupLimits", limits), patch("service.wiring.WorkerContext", context):
        sys.exit(main())
