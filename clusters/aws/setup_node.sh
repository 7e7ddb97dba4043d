#!/usr/bin/env bash
# Every machine on AWS: the project in /opt/orchestrator, where services of other users may read it.
set -euo pipefail

# shellcheck source=clusters/aws/apt.sh
source ~/segmentation-orchestrator/clusters/aws/apt.sh

# The first login of a new machine may come before its own set-up is done.
cloud-init status --wait > /dev/null || true
install_packages python3-venv rsync
sudo install -d -o "$USER" -g "$USER" /opt/orchestrator
bash ~/segmentation-orchestrator/clusters/setup_node.sh /opt/orchestrator
