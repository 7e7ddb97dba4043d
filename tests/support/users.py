"""Work of a test as another user."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

NOBODY = 65534  # user and group on Linux


@contextmanager
def another_user() -> Iterator[None]:
    """Act within this context as a user who has no rights on files of root.

    Linux lets only root become another user, so the test is skipped for others, who would need a
    second account; CI runs as root.
    """
    if os.geteuid() != 0:
        pytest.skip("acting as another user needs root")
    groups, group = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)
