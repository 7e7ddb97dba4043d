"""What several test files share: data, studies, servers, machines. Tests import it from here, never
from a conftest or from each other."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
