"""The measured latency and memory of the rows' networks, in the table and its notes."""

import statistics
from collections.abc import Iterable, Sequence

from orchestrator.report.rows.row import Row
from orchestrator.report.tables.cells import signed
from orchestrator.study.config import StudyConfig
from orchestrator.study.evaluation_options import LATENCY, LatencyConfig
from orchestrator.tracking.runs import TrialRun

METRICS = ("latency_ms", "latency_ms_p5", "latency_ms_p95", "inference_memory_gib")


def latency_values(config: StudyConfig, row: Row, metric: str) -> list[float]:
    """Return one of `METRICS` of each training of a row, measured as the study says."""
    name = f"eval/{LATENCY}/{metric}"
    runs = _measured(config.latency, [row])
    return [run.metrics[name] for run in runs if name in run.metrics]


def latency_devices(config: StudyConfig, rows: Iterable[Row]) -> list[str]:
    """Return the devices that the rows' latency was measured on."""
    return sorted({run.evaluations[LATENCY]["device"] for run in _measured(config.latency, rows)})


def latency_header(config: LatencyConfig | None) -> str:
    """Return the header of the column."""
    if config is None:
        return "latency ms"
    height, width = config.size
    batch = f", batch {config.batch}" if config.batch > 1 else ""
    return f"latency ms at {height}x{width}{batch}"


def latency_record(config: StudyConfig, row: Row) -> dict[str, str | float | None]:
    """Return the columns of the CSV: means over the row's training runs."""
    if config.latency is None:
        return {}
    line: dict[str, str | float | None] = {}
    for metric in METRICS:
        values = latency_values(config, row, metric)
        line[metric] = statistics.fmean(values) if values else None
        if metric == METRICS[0]:
            line["latency_ms_sd"] = statistics.stdev(values) if len(values) > 1 else None
    return line | {"latency_device": " + ".join(latency_devices(config, [row])) or None}


def latency_notes(config: StudyConfig, rows: Sequence[Row]) -> Iterable[tuple[str, ...]]:
    """Yield the notes, each followed by the key of the column it is about."""
    devices = latency_devices(config, rows)
    if config.latency is None or not devices:
        return
    low, high = 1.0, 1.0
    for row in rows:
        medians, fast, slow = (latency_values(config, row, metric) for metric in METRICS[:3])
        for median, p5, p95 in zip(medians, fast, slow, strict=True):
            low, high = min(low, p5 / median), max(high, p95 / median)
    batch = config.latency.batch
    images = "one image" if batch == 1 else f"{batch} images"
    over = "; ± over the row's trainings" if any(len(row.finished) > 1 for row in rows) else ""
    yield (
        f"Latency: median time of a forward pass on {images}, in the precision of the training, on "
        f"{' and '.join(devices)}{over}. Nine of ten passes are within {_percent(low)} % and "
        f"{_percent(high)} % of their median.",
        "latency_ms",
    )
    yield "Inference GiB: peak memory of these passes, with the weights.", "inference_memory_gib"


def latency_caveats(config: StudyConfig, rows: Sequence[Row]) -> Iterable[str]:
    """Yield a warning if the rows were measured on different devices."""
    devices = latency_devices(config, rows)
    if len(devices) > 1:
        yield (
            f"Latency was measured on different devices, which cannot be compared: "
            f"{'; '.join(devices)}."
        )


def _percent(ratio: float) -> str:
    """Return how far a ratio is from 1 in percent, with a decimal below 1 %."""
    value = 100 * ratio - 100
    return signed(value, 0 if abs(value) >= 1 else 1)


def _measured(config: LatencyConfig | None, rows: Iterable[Row]) -> list[TrialRun]:
    """Return the runs whose latency was measured as the study says."""
    runs = [result.run for row in rows for result in row.finished if result.run is not None]
    return [
        run
        for run in runs
        if config is not None and run.evaluations.get(LATENCY, {}).get("timed") == config.tag
    ]
