"""The Arrow file that stores the statistics of each image behind the metrics of a configuration."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.evaluation.config import MetricConfig
from pipelines.evaluation.counts import ImageCounts
from pipelines.evaluation.metrics import Array, Measured

STATISTICS_FILE = "statistics.arrow"
# Key of the schema's metadata: the metrics as JSON, by column.
_METRICS = b"metrics"


@dataclass(frozen=True)
class Statistics:
    """The statistics of the scored images, by the key of the metric.

    configs: the metrics. values: float64 `(images, S)`.
    """

    identifiers: tuple[str, ...]
    configs: Mapping[str, MetricConfig]
    values: Mapping[str, Array]


def write_statistics(
    directory: Path,
    images: ImageCounts,
    measured: Sequence[Measured],
    configs: Sequence[MetricConfig],
    identifiers: Sequence[str],
) -> None:
    """Write `STATISTICS_FILE` into `directory`: one row per image, in the order of the split, with
    one column of fixed-size lists per metric. Without a metric, write nothing.

    configs: of `measured`. identifiers: of the whole split.
    """
    if not measured:
        return
    columns = {
        each.key: pa.FixedSizeListArray.from_arrays(
            pa.array(each.statistics.reshape(-1)), each.statistics.shape[1]
        )
        for each in measured
    }
    names = [identifiers[position] for position in images.positions.tolist()]
    table = pa.table({"identifier": pa.array(names, pa.string()), **columns})
    described = json.dumps({config.key: asdict(config) for config in configs})
    table = table.replace_schema_metadata({_METRICS: described})
    with pa.ipc.new_file(directory / STATISTICS_FILE, table.schema) as writer:
        writer.write_table(table)


def read_statistics(path: Path) -> Statistics:
    """Read a file written by `write_statistics`.

    Raises ValueError if the file has other content.
    """
    try:
        with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
            table = reader.read_all()
        described = json.loads((table.schema.metadata or {})[_METRICS])
        values = {}
        for key in described:
            column = table[key].combine_chunks()
            values[key] = np.array(column.flatten()).reshape(len(table), -1)
        configs = {key: MetricConfig(**config) for key, config in described.items()}
        return Statistics(tuple(table["identifier"].to_pylist()), configs, values)
    except (pa.ArrowException, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a file of statistics by image ({error})") from None
