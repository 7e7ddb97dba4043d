"""A study in the hands of one process: taking it, the heartbeat that shows life, giving it back."""

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

# How long this process relies on what it last read of who holds the study.
TRUSTED_SECONDS = 15.0

# Where there is one, a clock that goes on while the machine sleeps: others see that no sign came.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class StudyLockedError(TrackingError):
    """Another process is at work on the study; the message says which."""


class StudyLockLostError(TrackingError):
    """The study is in this process's hands no longer; the message says in whose."""


class StudyLock:
    """The study's parent run, held by this process alone from `take` to `end`.

    A process that shows no life for long loses it: it may be suspended or cut off, and another
    host cannot know. taken: who has it by now, in a sentence; empty while this process has it.
    found: the status that the parent run had before.
    """

    def __init__(
        self,
        store: TrackingStore,
        parent_id: str,
        name: str,
        found: RunStatus,
        on_stop: Callable[[str], None],
    ) -> None:
        self.parent_id = parent_id
        self.taken = ""
        self.found = found
        self._name = name
        self._looked = _seconds()
        self._store = store
        self._on_stop = on_stop
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, daemon=True)

    @staticmethod
    def take(
        store: TrackingStore, experiment_id: str, name: str, on_stop: Callable[[str], None]
    ) -> "StudyLock":
        """Find or make the study's parent run, and hold it. on_stop: called, from a thread, with
        the reason why this process must stop: another terminal asks it to, or the study is taken.

        Raises StudyLockedError where another process holds it or takes it at this moment.
        """
        client, token = store.client, uuid.uuid4().hex[:12]
        asking = {f"{tag.ASKING}{token}": _signed()}
        parents = find_parents(store, experiment_id)
        made = None
        if parents:
            at = parents[0].info.run_id
            store.set_tags(at, asking)
        else:
            at = made = client.create_run(
                experiment_id, tags={f"{tag.KIND}": "study", **asking}, run_name=name
            ).info.run_id
        while True:
            parents = find_parents(store, experiment_id)
            verdict = settle(token, _rivals(parents, token))
            if verdict == "take":
                break
            if verdict == "give way":
                if made is None:
                    client.delete_tag(at, f"{tag.ASKING}{token}")
                else:
                    client.delete_run(made)
                raise StudyLockedError(_at_work(name, parents))
            time.sleep(_SETTLING_SECONDS)
        parent_id = parents[0].info.run_id
        session = StudyLock(store, parent_id, name, parents[0].info.status, on_stop)
        session._beat()
        client.update_run(parent_id, "RUNNING")
        for key in parents[0].data.tags:
            # A request to stop, and why an earlier command ended, are of the past.
            if key.startswith(tag.ASKING) or key in (tag.STOP, tag.REASON):
                client.delete_tag(parent_id, key)
        if made is not None and made != parent_id:
            client.delete_run(made)
        session._thread.start()
        return session

    def check(self) -> None:
        """Before writing. Raises StudyLockLostError where this process has lost the study."""
        if not self.taken and _seconds() - self._looked > TRUSTED_SECONDS:
            self._look()
        if self.taken:
            raise StudyLockLostError(self.taken)

    def end(self, status: RunStatus) -> None:
        """Close the parent run, unless another process has it. Nothing is left to close where it
        was deleted in MLflow. Raises TrackingError where it cannot be closed."""
        self._ended.set()
        self._thread.join()
        try:
            self._look()
            if not self.taken:
                self._store.client.set_terminated(self.parent_id, status)
        except MlflowException as error:
            if self._store.exists(self.parent_id):
                raise TrackingError(f"the study's run could not be closed: {error}") from None

    def _keep_beating(self) -> None:
        beaten = _seconds()
        while not self._ended.wait(STOP_CHECK_SECONDS):
            try:
                parent = self._look()
                if self.taken:
                    return self._on_stop(self.taken)
                if _seconds() - beaten >= HEARTBEAT_SECONDS:
                    self._beat()
                    beaten = _seconds()
                if tag.STOP in parent.data.tags:
                    self._on_stop("asked to stop from another terminal")
            except MlflowException:
                continue  # the store may be away for a moment; the next beat tries again

    def _look(self) -> Run:
        """Read whose the study is. A beat follows at once, so that none takes it back."""
        moment = _seconds()
        parent = self._store.client.get_run(self.parent_id)
        owner = Owner.parse(parent.data.tags.get(tag.OWNER, ""))
        if owner is not None and owner != Owner.this_process():
            self.taken = (
                f"the study {self._name!r} is being run by {owner.described} by now: it took over, "
                "because this process had shown no sign of life for minutes"
            )
        elif parent.info.status != "RUNNING":
            self.taken = (
                f"the study {self._name!r} was closed by another command, because this process had "
                "shown no sign of life for minutes"
            )
        self._looked = moment
        return parent

    def _beat(self) -> None:
        tags = {
            tag.OWNER: str(Owner.this_process()),
            tag.HEARTBEAT: f"{time.time():.0f}",
        }
        self._store.set_tags(self.parent_id, tags)


def find_parents(store: TrackingStore, experiment_id: str) -> list[Run]:
    """The study's parent runs, oldest first: one, but for the moment in which two processes begin
    the same study."""
    parents = store.search([experiment_id], f"tags.`{tag.KIND}` = 'study'")
    return sorted(parents, key=lambda run: (run.info.start_time, run.info.run_id))


def _signed() -> str:
    return f"{Owner.this_process()} {time.time():.0f}"


def _rivals(parents: list[Run], token: str) -> list[Claim]:
    rivals = [Claim("", held=True) for parent in parents if lock_holder(parent)]
    for parent in parents:
        for key, value in parent.data.tags.items():
            if not key.startswith(tag.ASKING) or key == f"{tag.ASKING}{token}":
                continue
            text, _, moment = value.rpartition(" ")
            owner = Owner.parse(text)
            if owner is not None and owner.may_be_alive(time.time() - float(moment)):
                rivals.append(Claim(key.removeprefix(tag.ASKING), held=False))
    return rivals


def _at_work(name: str, parents: list[Run]) -> str:
    for parent in parents:
        held = lock_holder(parent)
        if held is not None:
            return (
                f"the study {name!r} is being run by {held[0].described} (last sign of life "
                f"{held[1]:.0f} s ago); wait for it, stop it with `python -m orchestrator.studies "
                f"stop {name!r}`, or use another --storage"
            )
    return f"the study {name!r} has been started by another process at this very moment"


def _seconds() -> float:
    return time.clock_gettime(_CLOCK)


def ask_to_stop(store: TrackingStore, view: StudySummary) -> None:
    """Leave word for the process that runs the study, wherever it is; it looks every few
    seconds."""
    word = f"{Owner.this_process().described}, {time.strftime('%Y-%m-%d %H:%M:%S')}"
    store.set_tags(view.parent_id, {tag.STOP: word})


def close_abandoned(store: TrackingStore) -> None:
    """Close as KILLED what dead processes left RUNNING, in every study."""
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
        store.set_tags(run.info.run_id, {tag.REASON: reason, tag.CLAIM: ""})
        store.client.set_terminated(run.info.run_id, "KILLED")
    except MlflowException:
        return  # deleted meanwhile
