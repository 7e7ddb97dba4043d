"""The study lock: one process at a time runs a study, and heartbeats show that it is alive."""

import threading
import time
import uuid
from collections.abc import Callable

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from orchestrator.tracking import tags as tag
from orchestrator.tracking.claims import Claim, Owner, settle
from orchestrator.tracking.liveness import EXPIRED_SECONDS, HEARTBEAT_SECONDS
from orchestrator.tracking.process_lock import ProcessLock, has_ended
from orchestrator.tracking.queries import StudySummary, find_parents
from orchestrator.tracking.runs import RunStatus
from orchestrator.tracking.store import TrackingError, TrackingStore
from pipelines.wording import option

_SETTLING_SECONDS = 0.2

# A process settles its request within a second; one that takes longer has died.
_REQUEST_SECONDS = 30.0

_HOLDER_POLL_SECONDS = 0.5

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
        process_lock: ProcessLock,
    ) -> None:
        self.parent_id = parent_id
        self.lost_reason = ""
        self.previous_status = previous_status
        self._name = name
        self._checked_at = _seconds()
        self._store = store
        self._on_stop = on_stop
        self._process_lock = process_lock
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, daemon=True)

    @staticmethod
    def take(
        store: TrackingStore,
        experiment_id: str,
        name: str,
        on_stop: Callable[[str], None],
        say: Callable[[str], None],
    ) -> "StudyLock":
        """Find or create the study's parent run and lock it; take over a study that a process left
        RUNNING when it died, which may take minutes to find out.

        on_stop: called from a thread with the reason why this process must stop: another terminal
        requested it, or the lock was lost. say: prints a line about a wait or a takeover.

        Raises StudyLockedError if another live process holds the lock.
        """
        process_lock = ProcessLock(store.locks)
        try:
            parents, created = _request(store, experiment_id, name, process_lock, say)
        except BaseException:
            process_lock.release()
            raise
        for parent in parents:
            if store.liveness.has_ended(parent):
                say(_takeover_message(store, name, parent))
        parent_id = parents[0].info.run_id
        status = parents[0].info.status
        lock = StudyLock(store, parent_id, name, status, on_stop, process_lock)
        lock._send_heartbeat()
        store.client.update_run(parent_id, "RUNNING")
        for key in parents[0].data.tags:
            # Old stop requests, and the reason why an earlier command ended, no longer apply.
            if key.startswith(tag.LOCK_REQUEST) or key in (tag.STOP, tag.REASON):
                store.set_tags(parent_id, {key: ""})
        if created is not None and created != parent_id:
            store.client.delete_run(created)  # held this process's request until the heartbeat
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
        is_closed = False
        try:
            self._check_owner()
            if not self.lost_reason:
                self._store.client.set_terminated(self.parent_id, status)
            is_closed = True
        except MlflowException as error:
            if self._store.exists(self.parent_id):
                raise TrackingError(f"the study's run could not be closed: {error}") from None
        finally:
            # The next command takes over a run that is still open at once if it finds the file.
            self._process_lock.release(keep_file=not is_closed)

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
            tag.PROCESS_LOCK: self._process_lock.text,
        }
        self._store.set_tags(self.parent_id, tags)


def _request(
    store: TrackingStore,
    experiment_id: str,
    name: str,
    process_lock: ProcessLock,
    say: Callable[[str], None],
) -> tuple[list[Run], str | None]:
    """Request the study until this process may take it; return its parent runs, the one to take
    first, and the id of a run that was created for the request. Raises StudyLockedError if another
    live process holds the study."""
    first_signs = _signs_of_life(store, find_parents(store, experiment_id))
    while True:
        _wait_for_holders(store, experiment_id, name, first_signs, say)
        token = uuid.uuid4().hex[:12]
        key = f"{tag.LOCK_REQUEST}{token}"
        request = {key: f"{Owner.this_process()} {process_lock.text}"}
        created = None
        if parents := find_parents(store, experiment_id):
            requested_on = parents[0].info.run_id
            store.set_tags(requested_on, request)
        else:
            tags = {tag.KIND: "study", **request}
            run = store.client.create_run(experiment_id, tags=tags, run_name=name)
            requested_on = created = run.info.run_id
        while True:
            parents = find_parents(store, experiment_id)
            verdict = settle(token, _rivals(store, parents, key))
            if verdict != "wait":
                break
            time.sleep(_SETTLING_SECONDS)
        if verdict == "take":
            return parents, created
        if created is not None:
            store.client.delete_run(created)
        else:
            store.set_tags(requested_on, {key: ""})
        time.sleep(_SETTLING_SECONDS)  # until the other process has taken the study, or died


def _wait_for_holders(
    store: TrackingStore,
    experiment_id: str,
    name: str,
    first_signs: dict[str, str],
    say: Callable[[str], None],
) -> None:
    """Return once no live process holds the study. Raises StudyLockedError at the first sign of
    life that is not among `first_signs`."""
    is_announced = False
    while True:
        parents = find_parents(store, experiment_id)
        signs = _signs_of_life(store, parents)
        if not signs:
            return
        for parent in parents:
            holder = store.liveness.lock_holder(parent)
            if holder is None:
                continue
            if signs[parent.info.run_id] != first_signs.get(parent.info.run_id):
                raise StudyLockedError(
                    f"study {name!r} is being run by {holder.owner.description}; wait for it, stop "
                    f"it with `orchestrator studies stop {name!r}`, or use another "
                    f"{option('storage')}"
                )
            if not is_announced:
                is_announced = True
                say(
                    f"study {name!r} is run by {holder.owner.description}; waiting for its next "
                    f"heartbeat (without one, this command takes over after "
                    f"{EXPIRED_SECONDS:.0f} s)"
                )
        time.sleep(_HOLDER_POLL_SECONDS)


def _signs_of_life(store: TrackingStore, parents: list[Run]) -> dict[str, str]:
    """Return owner and heartbeat of each parent run that another process holds, by run id."""
    return {
        parent.info.run_id: " ".join(
            parent.data.tags.get(key, "") for key in (tag.OWNER, tag.HEARTBEAT)
        )
        for parent in parents
        if store.liveness.lock_holder(parent)
    }


def _rivals(store: TrackingStore, parents: list[Run], own_key: str) -> list[Claim]:
    """Return the claims of other processes that may be alive."""
    rivals = [Claim("", held=True) for parent in parents if store.liveness.lock_holder(parent)]
    for parent in parents:
        for key, value in parent.data.tags.items():
            if not key.startswith(tag.LOCK_REQUEST) or key == own_key:
                continue
            *_, lock_text = value.split(" ", 3)
            waited = store.liveness.seconds_unchanged(key, value)
            is_own = value.startswith(str(Owner.this_process()))
            ended = has_ended(lock_text, store.locks)
            if not is_own and waited < _REQUEST_SECONDS and not ended:
                rivals.append(Claim(key.removeprefix(tag.LOCK_REQUEST), held=False))
    return rivals


def _takeover_message(store: TrackingStore, name: str, parent: Run) -> str:
    owner = Owner.parse(parent.data.tags.get(tag.OWNER, ""))
    process = owner.description if owner else "a process"
    if has_ended(parent.data.tags.get(tag.PROCESS_LOCK, ""), store.locks):
        return f"taking over study {name!r}: {process} ended without closing it"
    return (
        f"taking over study {name!r}: {process} has sent no heartbeat for {EXPIRED_SECONDS:.0f} s"
    )


def _seconds() -> float:
    return time.clock_gettime(_CLOCK)


def request_stop(store: TrackingStore, study: StudySummary) -> None:
    """Ask the process that runs the study, on whatever host, to stop; it checks every few
    seconds."""
    request = f"{Owner.this_process().description}, {time.strftime('%Y-%m-%d %H:%M:%S')}"
    store.set_tags(study.parent_id, {tag.STOP: request})
