"""The service of cluster.yaml that ends a GPU machine whose head is gone: its real script, on a
machine whose clock and processes are told, and that Ray ends there by itself."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

STAND_INS = {
    # A minute passes. The story ends after 150.
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
def test_it_ends_when_nobody_needs_it(
    aws_config: dict[str, Any],
    tmp_path: Path,
    processes: list[tuple[int, int, str]],
    ended: int | None,
) -> None:
    script = tmp_path / "ends-alone"
    script.write_text(written(aws_config)["/usr/local/sbin/ends-alone"])
    for name, does in STAND_INS.items():
        stand_in = tmp_path / "bin" / name
        stand_in.parent.mkdir(exist_ok=True)
        stand_in.write_text(f'#!/bin/bash\nNOW=$(< "$STORY/now")\n{does}\n')
        stand_in.chmod(0o755)
    (tmp_path / "now").write_text("0\n")
    # Half of the set-up is what all machines do, half what workers do; the script runs throughout.
    commands = [*aws_config["setup_commands"][1:], *aws_config["worker_setup_commands"]]
    told = [(0, 999, "ends-alone /bin/bash /usr/local/sbin/ends-alone")]
    for start, end, what in processes:
        middle = (start + end) // 2
        halves = [(start, middle, commands[0]), (middle, end, commands[1])]
        told += halves if what == "set-up" else [(start, end, what)]
    (tmp_path / "processes").write_text("".join(f"{a} {b} {what}\n" for a, b, what in told))

    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    subprocess.run(
        ["bash", str(script)], env={"PATH": path, "STORY": str(tmp_path)}, timeout=100, check=False
    )
    said = tmp_path / "ended"
    assert (said.read_text() if said.exists() else None) == (
        f"poweroff {ended}\n" if ended else None
    )


def test_the_service_runs_the_script(aws_config: dict[str, Any]) -> None:
    files = written(aws_config)
    unit = files["/etc/systemd/system/ends-alone.service"].splitlines()
    assert "ExecStart=/usr/local/sbin/ends-alone" in unit
    assert files["/usr/local/sbin/ends-alone"].startswith("#!/bin/bash\n")


def written(config: dict[str, Any]) -> dict[str, str]:
    """The files that a GPU machine finds when it starts."""
    text = config["available_node_types"]["gpu"]["node_config"]["UserData"]
    files = yaml.safe_load(text)["write_files"]
    return {file["path"]: file["content"] for file in files}
