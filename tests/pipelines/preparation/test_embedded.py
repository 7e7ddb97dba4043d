"""The embedded data set."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.data.dataset import open_dataset
from pipelines.preparation.embedded import ensure_streets
from pipelines.preparation.readers.streets import Streets


def test_embedded_data_set_is_prepared_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "pipelines.preparation.embedded.Streets", lambda: Streets(train=2, val=1, size=(16, 32))
    )
    monkeypatch.setattr("pipelines.preparation.embedded.cores", lambda: 1)
    path = ensure_streets(tmp_path)
    assert open_dataset(path).manifest.counts == {"train": 2, "val": 1}
    modified = os.stat(path).st_mtime_ns
    assert ensure_streets(tmp_path) == path
    assert os.stat(path).st_mtime_ns == modified
