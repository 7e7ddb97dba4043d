"""Runs in each of Ray's worker processes when it starts."""

import os

import ray


def set_ray_address() -> None:
    """Set RAY_ADDRESS to the address of this process's cluster.

    An actor of Ray Train asks the dashboard whether the driver of a trial is alive, and releases
    the workers of a driver that the dashboard does not know. Without an address it asks the cluster
    that was started last on this machine, which may be another user's.
    """
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
