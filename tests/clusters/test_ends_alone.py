"""The service of cluster.yaml that powers off a GPU machine after its head node is lost.

The real script runs with stubs for the clock and the process list.
"""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

STUBS = {
    # Each sleep of 60 s advances the clock by a minute. The script is killed after 150 minutes.
    "sleep": '[ "$1" = 60 ] && echo $((NOW + 1)) > "$STORY/now"; ((NOW < 150)) || kill $PPID',
    "pgrep": """
        while read -r from until name line; do
          ((from <= NOW && NOW < until)) || continue
          case $1 in
            -x) [ "$name" = "$2" ] && exit 0 ;;
            -f) [[ "$name $line" =~ $2 ]] && exit 0 ;;
          esac
        done < "$STORY/processes"
        exit 1""",
    "systemctl": 'echo "$* $NOW" >> "$STORY/ended"',
}
RAYLET = "raylet /opt/orchestrator/lib/python3.12/site-packages/ray/core/src/ray/raylet/raylet"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "ended"),
    [
        pytest.param([], 20, id="nobody set it up"),
        pytest.param([(3, 90, "set-up"), (90, 999, RAYLET)], None, id="set up slowly"),
        pytest.param([(3, 9, "set-up"), (9, 60, RAYLET)], 79, id="its head was lost"),
        pytest.param([(3, 12, "set-up")], 31, id="its set-up failed"),
        pytest.param(
            [(1, 60, RAYLET), (61, 100, RAYLET), (119, 999, RAYLET)], None, id="Ray restarted"
        ),
    ],
)
def test_machine_powers_off_when_it_is_unused(
    aws_config: dict[str, Any],
    tmp_path: Path,
    processes: list[tuple[int, int, str]],
    ended: int | None,
) -> None:
    script = tmp_path / "ends-alone"
    script.write_text(written_files(aws_config)["/usr/local/sbin/ends-alone"])
    for name, lines in STUBS.items():
        stub = tmp_path / "bin" / name
        stub.parent.mkdir(exist_ok=True)
        stub.write_text(f'#!/bin/bash\nNOW=$(< "$STORY/now")\n{lines}\n')
        stub.chmod(0o755)
    (tmp_path / "now").write_text("0\n")
    # Setup runs the commands of all machines, then those of workers. The script always runs.
    commands = [*aws_config["setup_commands"][1:], *aws_config["worker_setup_commands"]]
    intervals = [(0, 999, "ends-alone /bin/bash /usr/local/sbin/ends-alone")]
    for start, end, command in processes:
        middle = (start + end) // 2
        halves = [(start, middle, commands[0]), (middle, end, commands[1])]
        intervals += halves if command == "set-up" else [(start, end, command)]
    (tmp_path / "processes").write_text(
        "".join(f"{start} {end} {command}\n" for start, end, command in intervals)
    )

    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    subprocess.run(
        ["bash", str(script)], env={"PATH": path, "STORY": str(tmp_path)}, timeout=100, check=False
    )
    ended_file = tmp_path / "ended"
    assert (ended_file.read_text() if ended_file.exists() else None) == (
        f"poweroff {ended}\n" if ended else None
    )


def test_service_unit_starts_the_script(aws_config: dict[str, Any]) -> None:
    files = written_files(aws_config)
    unit = files["/etc/systemd/system/ends-alone.service"].splitlines()
    assert "ExecStart=/usr/local/sbin/ends-alone" in unit
    assert files["/usr/local/sbin/ends-alone"].startswith("#!/bin/bash\n")


def written_files(config: dict[str, Any]) -> dict[str, str]:
    """Return path -> content of the files that cloud-init writes on a GPU machine."""
    text = config["available_node_types"]["gpu"]["node_config"]["UserData"]
    files = yaml.safe_load(text)["write_files"]
    return {file["path"]: file["content"] for file in files}
