r"""The key `group` of a `folder` data set: a regular expression that finds a sample's group, such
as a patient or a drive, in its name.

It is matched from the start of a sample's identifier. Its capturing group is the sample's group,
or the whole match if it has none: both `(patient\d+)_.*` and `patient\d+` put `patient7_03` into
`patient7`.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from pipelines.data.manifest import DESCRIPTION_NAME, DatasetError
from pipelines.preparation.readers.reader import Listing, Record
from pipelines.wording import counted, first_names

_LISTED = 5  # groups in a message before it says how many more there are
_MATCH_SECONDS = 10.0  # of processor time for one name; microseconds are usual


def check_group(path: Path, content: Mapping[str, Any]) -> None:
    """Check the key `group` of the description in `path`. Raises DatasetError."""
    if "group" not in content:
        return
    value = content["group"]
    if not isinstance(value, str):
        raise DatasetError(
            rf"{path}: group must be a regular expression in quotes, such as '(patient\d+)_.*', "
            f"received {value!r}; leave it out if samples have no groups"
        )
    try:
        expression = re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise DatasetError(
            f"{path}: group must be a regular expression, received `{value}`, which is invalid "
            f"({error}); correct it as Python's `re` documents"
        ) from error
    if expression.groups > 1:
        raise DatasetError(
            f"{path}: group must have at most one capturing group, received `{value}` with "
            f"{expression.groups}; write the others as (?:...)"
        )


def with_groups(listing: Listing, split: str, expression: str) -> Listing:
    """Return the listing of a split with each record's group.

    expression: the checked value of `group`. Records for which it finds no group, or an empty one,
    are reported in one sentence and left out.

    Raises:
        DatasetError: it takes seconds for one name.
    """
    compiled = re.compile(expression)
    grouped = listing.without_records()
    unmatched = []
    for record in listing.records:
        match = _match(compiled, record.identifier)
        group = match[compiled.groups] if match else None  # 0 is the whole match
        if group:
            grouped.records.append(replace(record, group=group))
        else:
            unmatched.append(record.identifier)
    names = {record.group for record in grouped.records}
    if len(grouped.records) > 2 and len(names) in (1, len(grouped.records)):
        each = "all samples are in one group" if len(names) == 1 else "each sample is a group"
        grouped.notes.append(
            f"{split}: with group `{expression}`, {each}, first {grouped.records[0].group!r}; "
            "check it if that is not what you mean"
        )
    if unmatched:
        grouped.problems.append(
            f"{split}: group `{expression}` finds no group in the names of {len(unmatched)} of "
            f"{len(listing.records)} samples, first {unmatched[0]!r}; change it so that it matches "
            "the start of every name, a path below the folder of images without its extension"
        )
    return grouped


def _match(expression: re.Pattern[str], name: str) -> re.Match[str] | None:
    """Match a name. Raises DatasetError after `_MATCH_SECONDS`, as for `(a+)+b` and many `a`.

    `re` has no limit, but handles signals while it matches, which only the main thread receives.
    """
    if threading.current_thread() is not threading.main_thread():
        return expression.match(name)

    def stop(*_: object) -> None:
        raise DatasetError(
            f"{DESCRIPTION_NAME}: group `{expression.pattern}` does not end on the name {name!r} "
            f"within {_MATCH_SECONDS:g} s; write it without a repetition in a repetition"
        )

    previous = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, _MATCH_SECONDS)
    try:
        return expression.match(name)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)


def shared_group_notes(records: Iterable[Record]) -> list[str]:
    """Return a sentence for each two splits that share groups. records: of all splits."""
    groups: dict[str, dict[str, None]] = {}
    for record in records:
        if record.group is not None:
            groups.setdefault(record.split, {})[record.group] = None
    notes = []
    for first, second in combinations(groups, 2):
        shared = [group for group in groups[second] if group in groups[first]]
        if shared:
            notes.append(
                f"{second} shares {len(shared)} of {counted(len(groups[second]), 'group')} with "
                f"{first}, so scores on one of them do not measure generalization from the other "
                f"to new groups: {first_names(shared, _LISTED)}"
            )
    return notes
