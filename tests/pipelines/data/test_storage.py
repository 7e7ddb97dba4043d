"""Paths and URIs of data sets."""

from __future__ import annotations

import pytest

from pipelines.data import storage
from pipelines.data.dataset import DatasetError
from pipelines.data.storage import locate


def test_a_scheme_whose_package_is_missing_gets_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing:
        @staticmethod
        def from_uri(uri: str) -> None:
            raise ImportError("Install huggingface_hub")

    monkeypatch.setattr(storage.pa.fs, "FileSystem", Missing)
    with pytest.raises(DatasetError, match=r"hf://x: cannot be reached .Install huggingface_hub"):
        locate("hf://x")
