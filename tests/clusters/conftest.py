"""The cluster files as tests read them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def aws_config(tmp_path: Path) -> dict[str, Any]:
    """cluster.yaml, with a private key that is there."""
    config: dict[str, Any] = yaml.safe_load((PROJECT / "cluster.yaml").read_text())
    key = tmp_path / "key.pem"
    key.write_text("a private key")
    config["auth"]["ssh_private_key"] = str(key)
    return config
