"""The study lock: one process at a time runs a study, and heartbeats show that it is alive."""

import threading
import time
import uuid
from collections.abc import Callable

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from orchestrator.tracking import tags as tag
from orchestrator.tracking.claims import HEARTBEAT_SECONDS, Claim, Owner, settle
from orchestrator.tracking.queries import StudySummary
from orchestrator.tracking.runs import RunStatus, is_abandoned, lock_holder
from orchestrator.tracking.store import TrackingError, TrackingStore

_SETTLING_SECONDS = 0.2

STOP_CHECK_SECONDS = 3.0

# How long this process trusts its last read of who holds the study.
TRUSTED_SECONDS = 15.0

# If available, a clock that also runs during suspend: other hosts see the heartbeat age meanwhile.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class StudyLockedError(TrackingError):
    """Another process is running the study; the message says which."""


class StudyLockLostError(TrackingError):
    """This process no longer holds the study; the message says who does."""


class StudyLock:
    """The lock on a study's parent run, held by this process from `take` to `end`.

    A process that sends no heartbeat for several minutes loses the lock: it may be suspended or cut
    off, and another host cannot tell. lost_reason: why this process no longer holds the lock, as a
    sentence; empty while it does. previous_status: the parent run's status before.
    """

    def __init__(
        self,
        store: TrackingStore,
        parent_id: str,
        name: str,
        previous_status: RunStatus,
        on_stop: Callable[[str], None],
    ) -> None:
        self.parent_id = parent_id
        self.lost_reason = ""
        self.previous_status = previous_status
        self._name = name
        self._checked_at = _seconds()
        self._store = store
        self._on_stop = on_stop
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, daemon=True)

    @staticmethod
    def take(
        store: TrackingStore, experiment_id: str, name: str, on_stop: Callable[[str], None]
    ) -> "StudyLock":
        """Find or create the study's parent run and lock it. on_stop: called from a thread with the
        reason why this process must stop: another terminal requested it, or the lock was lost.

        Raises StudyLockedError if another process holds the lock or takes it at this moment.
        """
        client, token = store.client, uuid.uuid4().hex[:12]
        request = {f"{tag.LOCK_REQUEST}{token}": _signature()}
        parents = find_parents(store, experiment_id)
        created = None
        if parents:
            requested_on = parents[0].info.run_id
            store.set_tags(requested_on, request)
        else:
            requested_on = created = client.create_run(
                experiment_id, tags={tag.KIND: "study", **request}, run_name=name
            ).info.run_id
        while True:
            parents = find_parents(store, experiment_id)
            verdict = settle(token, _rivals(parents, token))
            if verdict == "take":
                break
            if verdict == "give way":
                if created is None:
                    client.delete_tag(requested_on, f"{tag.LOCK_REQUEST}{token}")
                else:
                    client.delete_run(created)
                raise StudyLockedError(_locked_message(name, parents))
            time.sleep(_SETTLING_SECONDS)
        parent_id = parents[0].info.run_id
        lock = StudyLock(store, parent_id, name, parents[0].info.status, on_stop)
        lock._send_heartbeat()
        client.update_run(parent_id, "RUNNING")
        for key in parents[0].data.tags:
            # Old stop requests, and the reason why an earlier command ended, no longer apply.
            if key.startswith(tag.LOCK_REQUEST) or key in (tag.STOP, tag.REASON):
                client.delete_tag(parent_id, key)
        if created is not None and created != parent_id:
            client.delete_run(created)
        lock._thread.start()
        return lock

    def check(self) -> None:
        """Call before writing. Raises StudyLockLostError if this process has lost the study."""
        if not self.lost_reason and _seconds() - self._checked_at > TRUSTED_SECONDS:
            self._check_owner()
        if self.lost_reason:
            raise StudyLockLostError(self.lost_reason)

    def end(self, status: RunStatus) -> None:
        """Close the parent run, unless another process holds the lock or the run was deleted in
        MLflow. Raises TrackingError if it cannot be closed."""
        self._ended.set()
        self._thread.join()
        try:
            self._check_owner()
            if not self.lost_reason:
                self._store.client.set_terminated(self.parent_id, status)
        except MlflowException as error:
            if self._store.exists(self.parent_id):
                raise TrackingError(f"the study's run could not be closed: {error}") from None

    def _keep_alive(self) -> None:
        last_heartbeat = _seconds()
        while not self._ended.wait(STOP_CHECK_SECONDS):
            try:
                parent = self._check_owner()
                if self.lost_reason:
                    return self._on_stop(self.lost_reason)
                if _seconds() - last_heartbeat >= HEARTBEAT_SECONDS:
                    self._send_heartbeat()
                    last_heartbeat = _seconds()
                if tag.STOP in parent.data.tags:
                    self._on_stop("asked to stop from another terminal")
            except MlflowException:
                continue  # the store may be unreachable for a moment; the next round tries again

    def _check_owner(self) -> Run:
        """Read the parent run, and set `lost_reason` if another process owns or closed it.

        Call this right before each heartbeat, so that no heartbeat takes back a lost lock.
        """
        now = _seconds()
        parent = self._store.client.get_run(self.parent_id)
        owner = Owner.parse(parent.data.tags.get(tag.OWNER, ""))
        if owner is not None and owner != Owner.this_process():
            self.lost_reason = (
                f"{owner.description} has taken over study {self._name!r}: this process sent no "
                "heartbeat for several minutes"
            )
        elif parent.info.status != "RUNNING":
            self.lost_reason = (
                f"another command closed study {self._name!r}: this process sent no heartbeat for "
                "several minutes"
            )
        self._checked_at = now
        return parent

    def _send_heartbeat(self) -> None:
        tags = {
            tag.OWNER: str(Owner.this_process()),
            tag.HEARTBEAT: f"{time.time():.0f}",
        }
        self._store.set_tags(self.parent_id, tags)


def find_parents(store: TrackingStore, experiment_id: str) -> list[Run]:
    """Return the study's parent runs, oldest first: one, except in the moment when two processes
    start the same study."""
    parents = store.search([experiment_id], f"tags.`{tag.KIND}` = 'study'")
    return sorted(parents, key=lambda run: (run.info.start_time, run.info.run_id))


def _signature() -> str:
    return f"{Owner.this_process()} {time.time():.0f}"


def _rivals(parents: list[Run], token: str) -> list[Claim]:
    rivals = [Claim("", held=True) for parent in parents if lock_holder(parent)]
    for parent in parents:
        for key, value in parent.data.tags.items():
            if not key.startswith(tag.LOCK_REQUEST) or key == f"{tag.LOCK_REQUEST}{token}":
                continue
            text, _, requested_at = value.rpartition(" ")
            owner = Owner.parse(text)
            if owner is not None and owner.may_be_alive(time.time() - float(requested_at)):
                rivals.append(Claim(key.removeprefix(tag.LOCK_REQUEST), held=False))
    return rivals


def _locked_message(name: str, parents: list[Run]) -> str:
    for parent in parents:
        holder = lock_holder(parent)
        if holder is not None:
            return (
                f"study {name!r} is being run by {holder[0].description} (last heartbeat "
                f"{holder[1]:.0f} s ago); wait for it, stop it with `python -m "
                f"orchestrator.studies stop {name!r}`, or use another --storage"
            )
    return f"another process has just started study {name!r}; wait for it, or use another --storage"


def _seconds() -> float:
    return time.clock_gettime(_CLOCK)


def request_stop(store: TrackingStore, study: StudySummary) -> None:
    """Ask the process that runs the study, on whatever host, to stop; it checks every few
    seconds."""
    request = f"{Owner.this_process().description}, {time.strftime('%Y-%m-%d %H:%M:%S')}"
    store.set_tags(study.parent_id, {tag.STOP: request})


def close_abandoned(store: TrackingStore) -> None:
    """Close as KILLED the runs that dead processes left RUNNING, in every study."""
    names = store.studies()
    query = f"tags.`{tag.KIND}` = 'study' and attributes.status = 'RUNNING'"
    dead = [parent for parent in store.search(list(names), query) if is_abandoned(parent)]
    for parent in dead:
        children = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
        for run in store.search([parent.info.experiment_id], children):
            if run.info.status in ("RUNNING", "SCHEDULED"):
                _close(store, run)
        _close(store, parent)


def _close(store: TrackingStore, run: Run) -> None:
    try:
        reason = "its process ended without closing it"
        store.end_run(run, "KILLED", {tag.REASON: reason})
    except MlflowException:
        return  # deleted in the meantime
