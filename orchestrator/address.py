"""What `--address` names, and what can be wrong with it."""


class UnreachableError(ConnectionError):
    """No Ray cluster answers; the message says what was tried and what would work."""


_RAY_CLIENT = (
    "Ray Client keeps the study's own process here, so that it ends with this terminal or a lost "
    "connection; use the dashboard's address (http://localhost:8265, through `ray dashboard "
    "cluster.yaml`), or on the cluster itself auto or host:port"
)


class RemoteError(RuntimeError):
    """A study cannot be sent to the cluster; the message says why and what would work."""


def is_remote(address: str | None) -> bool:
    """Whether an address is a cluster's dashboard, to which a study is sent as a job.

    Raises RemoteError for Ray Client's addresses.
    """
    if address is None:
        return False
    if address.startswith("ray://"):
        raise RemoteError(f"--address {address}: {_RAY_CLIENT}")
    return address.startswith(("http://", "https://"))
