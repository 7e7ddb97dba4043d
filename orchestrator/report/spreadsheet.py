"""The table for machines: a line a row, every figure as a number in full precision."""

import csv
import io
import statistics
from collections.abc import Sequence

from orchestrator.report.rows import Row
from orchestrator.stated import Published
from orchestrator.study import Plan

Value = str | float | int | None


def as_csv(plan: Plan, rows: Sequence[Row], others: Sequence[Published]) -> str:
    """mIoU in percent, differences in points of it; what there is none of is empty. `kind` is
    `trained` or `published`."""
    lines = [_line(plan, row) for row in rows]
    lines += [
        {
            "kind": "published",
            "label": other.label,
            **{axis: str(other.when[axis]) for axis in plan.study.grid if axis in other.when},
            "parameters_m": other.parameters_m,
            "gflops": other.gflops,
            "published_miou": other.miou,
            "source": other.source,
        }
        for other in others
    ]
    names = dict.fromkeys(name for line in lines for name in line)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def _line(plan: Plan, row: Row) -> dict[str, Value]:
    values, difference, cost = list(row.miou.values()), row.difference, row.cost
    reference = row.reference
    low, high = (difference.interval if difference else None) or (None, None)
    experiment, name = row.results[0].trial.experiment, plan.study.report.protocol
    scoring = experiment.evaluation if name is None else plan.study.protocols[name]
    states = {result.state for result in row.results if result.miou is None}
    return {
        "kind": "trained",
        "variant": row.variant,
        "label": row.label,
        **{axis: str(row.axes[axis]) for axis in plan.study.grid},
        "split": experiment.data.validation_split,
        "protocol": scoring.protocol,
        "n": len(values),
        "seeds_asked": len(row.results),
        "miou_mean": statistics.fmean(values) if values else None,
        "miou_sd": statistics.stdev(values) if len(values) > 1 else None,
        **{f"miou_seed_{seed}": row.miou.get(seed) for seed in plan.study.seeds},
        "best_miou_mean": statistics.fmean(row.best.values()) if row.best else None,
        "entered_miou_mean": statistics.fmean(row.entered.values()) if row.entered else None,
        "difference": difference.mean if difference else None,
        "difference_n": len(difference.seeds) if difference else None,
        "difference_sd": difference.deviation if difference else None,
        "interval_low": low,
        "interval_high": high,
        "p": difference.p if difference else None,
        "p_holm": row.corrected,
        "p_t_test": difference.t_test if difference else None,
        "published_miou": row.published,
        "published_difference": row.published_difference,
        "source": reference.source if reference else None,
        "parameters_m": cost.parameters_m if cost else None,
        "gflops": cost.gflops if cost else None,
        "published_parameters_m": reference.parameters_m if reference else None,
        "published_gflops": reference.gflops if reference else None,
        "images_per_second": row.images_per_second,
        "hours": row.hours,
        "unfinished": " ".join(sorted(states)),
        "stale": int(row.stale),
        "uncertain": "; ".join(sorted({r.assumed for r in row.results if r.assumed})),
        "incomparable": row.incomparable,
        **{what: " ".join(sorted(row.kinds(what))) for what in ("data", "code", "precision")},
        "runs": " ".join(result.run.run_id for result in row.finished if result.run is not None),
    }
