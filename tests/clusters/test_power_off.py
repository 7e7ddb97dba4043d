"""The user data of cluster.yaml that powers off a machine that is not used.

The real script runs with stubs for the clock, the process list, logins and connections.
"""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

STUBS = {
    # Each sleep of 60 s advances the clock by a minute. The script is killed after END minutes.
    "sleep": '[ "$1" = 60 ] && echo $((NOW + 1)) > "$STORY/now"; ((NOW < END)) || kill $PPID',
    # The last option is the pattern.
    "pgrep": """
        status=1
        while read -r from until line; do
          ((from <= NOW && NOW < until)) || continue
          [[ $line =~ ${@: -1} ]] && echo "1 $line" && status=0
        done < "$STORY/processes"
        exit $status""",
    "who": 'grep -q "^login $NOW$" "$STORY/events" && echo alice',
    "hostname": "echo 10.0.0.5 ",
    "ss": """
        echo "0 0 10.0.0.5:6379 10.0.0.5:40000"
        if grep -q "^connection $NOW$" "$STORY/events"; then
          echo "0 0 10.0.0.5:6379 10.0.0.50:40000"
        fi""",
    "systemctl": 'echo "$* $NOW" >> "$STORY/ended"',
    "systemd-run": 'exec bash "${@: -2}"',
}
PYTHON, CONSOLE = "/opt/orchestrator/bin/python", "/opt/orchestrator/bin/orchestrator"
STUDY_COMMANDS = (
    "sweep s.yaml --address auto",
    "studies resume table-1a --storage s3://bucket/storage",
    "bundle table-1a.zip --replay strong --address auto",
    "evaluate runs:/1/best --dataset s3://bucket/data --address auto",
    "predict runs:/1/best --images s3://bucket/images",
)
TRIAL, IDLE = "ray::RayTrainWorker.execute", "ray::IDLE"


@pytest.mark.parametrize(
    ("processes", "ended"),
    [
        pytest.param([], 30, id="nobody set it up"),
        pytest.param([(3, 190, "set-up"), (190, 300, TRIAL)], None, id="set up slowly"),
        pytest.param([(3, 9, "set-up"), (9, 60, TRIAL)], 89, id="its head was lost"),
        pytest.param([(3, 12, "set-up")], 41, id="its set-up failed"),
        pytest.param([(0, 300, IDLE), (3, 60, TRIAL)], 89, id="the autoscaler failed"),
        pytest.param([(1, 100, TRIAL), (119, 300, TRIAL)], None, id="between two trials"),
    ],
)
def test_gpu_machine_powers_off_when_it_is_unused(
    aws_config: dict[str, Any],
    tmp_path: Path,
    processes: list[tuple[int, int, str]],
    ended: int | None,
) -> None:
    assert power_off_minute(aws_config, tmp_path, processes, 200) == ended


@pytest.mark.parametrize(
    ("processes", "events", "ended"),
    [
        pytest.param([(3, 12, "set-up")], [], 51, id="its set-up failed"),
        pytest.param([(0, 90, IDLE)], ["login 30"], 70, id="a login"),
        pytest.param([(0, 90, IDLE)], ["connection 30"], 70, id="a GPU machine"),
        *[
            pytest.param([(0, 90, line)], [], None, id=line)
            for command in STUDY_COMMANDS
            for line in (f"{PYTHON} -m orchestrator.{command}", f"{PYTHON} {CONSOLE} {command}")
        ],
        *[
            pytest.param([(0, 90, line)], [], 40, id=line)
            for command in ("server /var/lib/tracking", "studies logs 'strong, seed 0' --follow")
            for line in (f"{PYTHON} -m orchestrator.{command}", f"{PYTHON} {CONSOLE} {command}")
        ],
    ],
)
def test_head_powers_off_after_twelve_hours(
    aws_config: dict[str, Any],
    tmp_path: Path,
    processes: list[tuple[int, int, str]],
    events: list[str],
    ended: int | None,
) -> None:
    bootstrap = tmp_path / "ray_bootstrap_config.yaml"
    bootstrap.touch()
    (tmp_path / "events").write_text("".join(f"{event}\n" for event in events))
    assert power_off_minute(aws_config, tmp_path, processes, 90, bootstrap) == ended


def test_machine_powers_off_after_every_reboot(aws_config: dict[str, Any], tmp_path: Path) -> None:
    assert power_off_minute(aws_config, tmp_path, [], 40) == 30
    (link,) = (tmp_path / "per-boot").iterdir()
    for _ in range(2):
        (tmp_path / "now").write_text("0\n")
        (tmp_path / "ended").unlink()
        assert boot(link, tmp_path, 40) == 30
        assert link.resolve() == tmp_path / "power-off"


def power_off_minute(
    config: dict[str, Any],
    directory: Path,
    processes: list[tuple[int, int, str]],
    end: int,
    bootstrap: Path = Path("/none"),
) -> int | None:
    """Run the script until minute `end`; return the minute in which it powers off, or None.

    processes: (first minute, minute after the last, command line) of each.
    """
    script = directory / "power-off"
    text = config["available_node_types"]["gpu"]["node_config"]["UserData"]
    for original, replacement in (
        ("/home/ubuntu/ray_bootstrap_config.yaml", str(bootstrap)),
        ("unused >= 720", "unused >= 40"),  # minutes, to save time
        ("/var/lib/cloud/scripts/per-boot", str(directory / "per-boot")),
    ):
        assert original in text
        text = text.replace(original, replacement)
    script.write_text(text)
    for name, lines in STUBS.items():
        stub = directory / "bin" / name
        stub.parent.mkdir(exist_ok=True)
        stub.write_text(f'#!/bin/bash\nNOW=$(< "$STORY/now")\n{lines}\n')
        stub.chmod(0o755)
    (directory / "per-boot").mkdir()
    (directory / "now").write_text("0\n")
    (directory / "events").touch()
    (command,) = config["worker_setup_commands"]
    always = [(0, 999, f"/bin/bash {script} watch"), (0, 999, "ray::DashboardAgent")]
    (directory / "processes").write_text(
        "".join(
            f"{start} {stop} {command if line == 'set-up' else line}\n"
            for start, stop, line in [*always, *processes]
        )
    )
    return boot(script, directory, end)


def boot(script: Path, directory: Path, end: int) -> int | None:
    """Run a script as cloud-init does; return the minute in which it powers off, or None."""
    path = f"{directory / 'bin'}:{os.environ['PATH']}"
    subprocess.run(
        ["bash", str(script)],
        env={"PATH": path, "STORY": str(directory), "END": str(end)},
        timeout=100,
        check=False,
    )
    ended = directory / "ended"
    return int(ended.read_text().removeprefix("poweroff ")) if ended.exists() else None
