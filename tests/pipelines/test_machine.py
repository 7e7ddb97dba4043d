"""Memory of this process as the operating system reports it."""

import sys

import numpy as np
import pytest

from pipelines.machine import peak_resident_gib, reset_peak_memory


@pytest.mark.skipif(
    sys.platform != "linux",
    reason="no other system can reset the peak; trials there never share a process",
)
def test_peak_memory_is_that_since_the_reset() -> None:
    before = peak_resident_gib()
    array = np.ones(2**28, np.uint8)  # 0.25 GiB
    with_array = peak_resident_gib()
    assert with_array > before
    del array
    # The kernel counts in steps of a few pages per thread.
    assert peak_resident_gib() == pytest.approx(with_array, abs=0.01)
    reset_peak_memory()
    assert peak_resident_gib() < with_array - 0.2
