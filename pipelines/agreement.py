"""Whether all workers of a group train the same thing, from the same place.

Processes of two groups may meet by an address that both were given, and machines may hold different
files under one name. The gradients of different trainings fit together all the same, and nothing
else would tell.
"""

import json
from collections.abc import Mapping
from typing import Any

from pipelines.distributed import WorkerGroup
from pipelines.experiment import differences

_SHOWN = 5


class DisagreementError(RuntimeError):
    """A worker of the group is about to do something else than the others; says what differs."""


def check_agreement(group: WorkerGroup, own: Mapping[str, Any]) -> None:
    """Make sure that all workers hold the same `own`, which is as JSON has it.

    To be called on all of them. Raises DisagreementError, on all of them, where one differs.
    """
    texts = group.gather(json.dumps(own, sort_keys=True))
    for rank, text in enumerate(texts):
        if text != texts[0]:
            found = differences(json.loads(texts[0]), json.loads(text))
            raise DisagreementError(
                f"worker {rank} (here) is about to train something else than worker 0 (there): "
                f"{'; '.join(found[:_SHOWN])}"
            )
