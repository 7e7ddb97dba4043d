"""Data set paths and URIs."""

from __future__ import annotations

import pytest

from pipelines.data import storage
from pipelines.data.manifest import DatasetError
from pipelines.data.storage import locate


def test_missing_package_of_a_scheme_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing:
        @staticmethod
        def from_uri(uri: str) -> None:
            raise ImportError("Install huggingface_hub")

    monkeypatch.setattr(storage.pa.fs, "FileSystem", Missing)
    with pytest.raises(DatasetError, match=r"hf://x: cannot be reached .Install huggingface_hub"):
        locate("hf://x")


def test_path_that_no_file_can_have_is_reported() -> None:
    with pytest.raises(DatasetError, match=r"'a.x00b': a path cannot contain the character #x00"):
        locate("a\0b")
