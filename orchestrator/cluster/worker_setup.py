"""For processes of Ray that ask after Ray's cluster: the one that they belong to."""

import os

import ray


def set_ray_address() -> None:
    """Put the address of this process's cluster where Ray looks for one. Ray runs it in each worker
    process.

    Ray Train has an actor ask the cluster's dashboard whether a trial's driver is alive, and frees
    the gang of one that is not known there. Without an address it asks the cluster that was started
    last on the machine, which may be somebody else's and knows of no such driver.
    """
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
