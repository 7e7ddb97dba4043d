#!/usr/bin/env bash
# Set up any machine on AWS: install the project in /opt/orchestrator, where services of other users can
# read it.
set -euo pipefail

# shellcheck source=clusters/aws/apt.sh
source ~/segmentation-orchestrator/clusters/aws/apt.sh

# Ray may log in before cloud-init has finished.
cloud-init status --wait > /dev/null || true
install_packages python3-venv rsync
sudo install -d -o "$USER" -g "$USER" /opt/orchestrator
bash ~/segmentation-orchestrator/clusters/setup_node.sh /opt/orchestrator
