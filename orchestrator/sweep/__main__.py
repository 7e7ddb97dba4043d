"""`python -m orchestrator.sweep STUDY.yaml`: make the study's table true.

Trains what is missing, resumes what was interrupted, leaves what is finished, and prints the table.
"""

import argparse
import gc
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.markup import escape

from orchestrator.cluster.address import is_remote
from orchestrator.console import capture_library_output
from orchestrator.context import STOPPING, RunContext, StopRequest
from orchestrator.planning.reconcile import ReconcileOptions
from orchestrator.storage import Storage
from orchestrator.study.load import load_study, override_of
from orchestrator.study.user_code import modules_of
from orchestrator.sweep.run import run_study
from pipelines.data.storage import check_no_secret
from pipelines.errors import UserError

EXIT_FAILED_TRIALS = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
# Who presses Ctrl-C again within this time means the stop that is on its way.
_CLOSING_SECONDS = 10.0


def main(arguments: Sequence[str] | None = None, prog: str = "python -m orchestrator.sweep") -> int:
    """Run the command; returns its exit status: 0 all trials finished, 1 some failed, 2 bad input,
    130 interrupted."""
    options = _parser(prog).parse_args(arguments)
    try:
        check_no_secret(options.storage)
        if is_remote(options.address):
            return _send(options, Console())
        storage = Storage.of(options.storage)
        storage.make()
    except UserError as error:
        _tell(error, Console())
        return EXIT_BAD_INPUT
    stop = StopRequest()
    with capture_library_output(storage.here / "logs") as (console, log):
        previous = {
            number: signal.signal(number, _handler(stop, console))
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if number != signal.SIGHUP or not _outlives_its_terminal()
        }
        try:
            study = load_study(
                Path(options.study), [override_of(text) for text in options.set], options.only
            )
            for warning in study.warnings:
                console.print(f"[yellow]look[/]  {escape(str(warning))}", highlight=False)
            context = RunContext(
                storage,
                options.address,
                console,
                log,
                stop,
                preflight=not options.no_preflight,
                command=_again(options),
            )
            finished = run_study(study, context, _reconcile_options(options), options.plan)
        except UserError as error:
            _tell(error, console)
            return EXIT_BAD_INPUT
        except KeyboardInterrupt:
            console.print("stopped at once; run the same command again to go on")
            return EXIT_INTERRUPTED
        except Exception as error:
            traceback.print_exc()
            console.print(f"[bold red]internal error[/] {type(error).__name__}", highlight=False)
            console.print(f"  {error}", markup=False, highlight=False, soft_wrap=True)
            console.print(f"  the full account is in {log}", highlight=False, soft_wrap=True)
            return EXIT_FAILED_TRIALS
        finally:
            asked = stop.requested or stop.at_once is not None
            for number, handler in previous.items():
                # Once more is too late: nothing is left to stop.
                signal.signal(number, signal.SIG_IGN if asked else handler)
    if stop.requested:
        return EXIT_INTERRUPTED
    return 0 if finished else EXIT_FAILED_TRIALS


def _send(options: argparse.Namespace, console: Console) -> int:
    """Have the study run by the cluster whose dashboard `--address` names, and follow it."""
    # Ray takes seconds to import.
    from orchestrator.cluster.submit import check_before_submit, submit_study

    study = load_study(
        Path(options.study), [override_of(text) for text in options.set], options.only
    )
    passed_on = [
        f"--{name}={value}" for name in ("set", "only") for value in getattr(options, name)
    ]
    passed_on += [f"--{name.replace('_', '-')}" for name, on in vars(options).items() if on is True]
    check_before_submit(study, passed_on)
    modules = {
        module.__name__: module
        for trial in study.trials
        for module in modules_of(trial.experiment, study.config.imports)
    }
    return submit_study(
        study.config.study,
        study.resolved,
        list(modules.values()),
        passed_on,
        options.address,
        options.storage,
        console,
    )


def _tell(error: Exception, console: Console) -> None:
    console.print(f"[bold red]error[/] {type(error).__name__}", highlight=False)
    for line in str(error).splitlines():
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Train every missing trial of a study and print its table.",
    )
    parser.add_argument("study", metavar="STUDY.yaml", help="the study file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="lay a value over the file, e.g. training.epochs=50 or data.dataset=DIR; repeatable",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="trials whose name matches, e.g. 'strong*'; repeatable",
    )
    parser.add_argument(
        "--storage",
        default="storage",
        metavar="DIR|URI",
        help="where data sets, checkpoints, logs and the ledger lie (default: ./storage); a URI, "
        "such as s3://BUCKET/storage, needs MLFLOW_TRACKING_URI",
    )
    parser.add_argument(
        "--address",
        default=os.environ.get("RAY_ADDRESS"),
        help="a running Ray cluster: host:port or auto on one of its machines, or from anywhere "
        "its dashboard (http://localhost:8265), to which the study is sent; without it, one is "
        "started here",
    )
    parser.add_argument(
        "--plan", action="store_true", help="show the trials and their state, train nothing"
    )
    parser.add_argument(
        "--retry-failed", action="store_true", help="resume trials that failed, too"
    )
    parser.add_argument(
        "--retrain-stale",
        action="store_true",
        help="train anew what was finished under another version of the code",
    )
    parser.add_argument(
        "--no-preflight",
        action="store_true",
        help="skip the preflight run of each distinct experiment",
    )
    parser.add_argument(  # the former spelling
        "--no-canary", dest="no_preflight", action="store_true", help=argparse.SUPPRESS
    )
    return parser


def _reconcile_options(options: argparse.Namespace) -> ReconcileOptions:
    return ReconcileOptions(options.retry_failed, options.retrain_stale)


def _again(options: argparse.Namespace) -> str:
    """What `orchestrator.studies resume` needs besides the resolved study."""
    here = str(Path.cwd())
    return json.dumps({"directory": here, "only": options.only, "set": options.set})


def _outlives_its_terminal() -> bool:
    """Whether the command was started by nohup. That SIGINT is ignored says nothing: shells have it
    so for all that they start in the background."""
    return signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def _handler(stop: StopRequest, console: Console):  # type: ignore[no-untyped-def]
    def handle(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if stop.at_once is not None and now - stop.at_once < _CLOSING_SECONDS:
            return  # the runs are being closed
        if stop.requested or not stop.graceful:
            stop.at_once = now
            raise KeyboardInterrupt
        stop.requested = True
        console.print(f"\nstopping: {STOPPING} (once more to stop at once)")

    return handle


if __name__ == "__main__":
    gc.freeze()  # the modules stay; looking through them again and again takes a second of a plan
    status = main()
    gc.freeze()
    sys.exit(status)
