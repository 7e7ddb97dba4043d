"""Settings for all tests."""

import os

from hypothesis import HealthCheck, settings

# A busy machine is no reason to fail; on CI the same examples come every time.
settings.register_profile(
    "project", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("ci", settings.get_profile("project"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "project")
