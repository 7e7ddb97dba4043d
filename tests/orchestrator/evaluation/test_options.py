"""Options of the commands that apply a model."""

from argparse import Namespace
from pathlib import Path

import pytest

from orchestrator.evaluation.options import storage_of


def test_storage_in_a_bucket_is_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    storage = storage_of(Namespace(storage="s3://bucket/x"))
    assert storage.local.is_relative_to(tmp_path)
    assert storage.at("datasets") == "s3://bucket/x/datasets"
