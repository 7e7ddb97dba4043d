"""What follows training: the study's further protocols, and its submission.

Both are wanted states: what the ledger has already is not done again.
"""

from collections.abc import Callable, Mapping, Sequence

from orchestrator.cells import Cell
from orchestrator.ledger import Ledger, Record
from orchestrator.packing import missing_packages, pack_missing
from orchestrator.protocols import missing_scores, score
from orchestrator.setting import Setting
from orchestrator.study import Plan


def score_and_pack(
    plan: Plan,
    cells: Sequence[Cell],
    finished: Mapping[str, Record],
    ledger: Ledger,
    setting: Setting,
    start_cluster: Callable[[], None],
) -> dict[str, str]:
    """Score what is finished (runs by the trial's name) under the study's protocols, and pack its
    submission. Returns why what could not be done was not, by the trial's name."""
    run_ids = {name: record.run_id for name, record in finished.items()}
    scores = list(missing_scores(plan, cells, run_ids, ledger.evaluations))
    packages = list(missing_packages(plan, cells, run_ids, ledger.evaluations))
    if not (scores or packages):
        return {}
    start_cluster()
    setting.stop.graceful = True

    def stop() -> bool:
        return setting.stop.requested

    failures = score(scores, ledger, plan.study.imports, setting.console, stop)
    if packages:
        directory = setting.storage.here / "submissions" / plan.study.study
        unpacked = pack_missing(packages, plan, ledger, directory, setting.console, stop)
        for name, cause in unpacked.items():
            failures[name] = f"{failures[name]}; {cause}" if name in failures else cause
    setting.stop.graceful = False
    return failures
