"""Code that several test files share: data, studies, servers and hosts.

Tests import it from here, never from a conftest or from each other.
"""

from pathlib import Path

ROOT = Path(__file__).parents[2]
