"""Footnotes on the images that intervals are resampled from, and what few of them limit."""

from collections.abc import Iterable, Mapping, Sequence

from orchestrator.report.rows.row import Row
from orchestrator.report.statistics.bootstrap import Sampling
from orchestrator.study.study import Study

# With fewer images, intervals are too narrow (Andre et al., 2025).
_FEW_IMAGES = 50


def few_images_notes(samples: Mapping[str, Sampling]) -> Iterable[str]:
    """Yield what few images or groups of images limit. samples: how they were drawn, by data
    set."""
    for dataset, sampling in samples.items():
        where = f"{dataset}: " if len(samples) > 1 else ""
        if sampling.unit == "within groups":
            count = len(sampling.groups)
            yield (
                f"{where}Only {count} groups of images ({', '.join(sampling.groups)}): the "
                "intervals are for these groups, not for new ones."
            )
        if sampling.unit != "groups" and sampling.units < _FEW_IMAGES:
            yield (
                f"{where}Only {sampling.units} images: the intervals may be too narrow, in "
                "particular with rare classes."
            )


def no_intervals_note(rows: Sequence[Row]) -> str:
    """Return why no row has an interval."""
    counts = [r.counts for row in rows for r in row.finished if r.counts is not None]
    if counts and all(each.sampling.units == 1 for each in counts):
        return "No intervals: the rows are scored on one image, which cannot be resampled."
    return "No intervals: they need the per-image pixel counts of both rows."


def samplings(study: Study, rows: Sequence[Row]) -> dict[str, Sampling]:
    """Return how images were drawn, by data set, with its folder or split where names are equal."""
    samples: dict[tuple[str, str], Sampling] = {}
    for row in rows:
        counts = next((r.counts for r in row.finished if r.counts is not None), None)
        if counts is not None:
            data = row.results[0].trial.experiment.data
            split = study.config.scored_split(study.config.report.protocol, data.validation_split)
            samples.setdefault((data.dataset.rstrip("/"), split or ""), counts.sampling)
    return {
        text: sampling
        for text, (_, sampling) in zip(_names(list(samples)), samples.items(), strict=True)
    }


def _names(datasets: Sequence[tuple[str, str]]) -> list[str]:
    """Return distinct names of data sets and splits, as short as possible. datasets: location and
    split of each."""
    short = [(location.rpartition("/")[2], split) for location, split in datasets]
    named = short if len(set(short)) == len(short) else list(datasets)
    several = len({name for name, _ in named}) < len(named)
    return [f"{name}, {split}" if several else name for name, split in named]


def sampling_text(sampling: Sampling) -> str:
    """Return what was drawn: images, groups of images, or images within groups."""
    if sampling.unit == "groups":
        return f"{sampling.units} groups of images, such as cities or drives"
    if sampling.unit == "within groups":
        return f"{sampling.units} images, within each of {len(sampling.groups)} groups"
    return f"{sampling.units} images"
