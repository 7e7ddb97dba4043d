#!/usr/bin/env bash
# Every machine on AWS: the project in /opt/orchestrator, where services of other users may read it.
set -euo pipefail

# The first login of a new machine may come before its own package updates are done.
cloud-init status --wait > /dev/null || true
sudo apt-get update -qq
sudo apt-get install -y -qq python3-venv rsync
sudo install -d -o "$USER" -g "$USER" /opt/orchestrator
bash ~/segmentation-orchestrator/clusters/setup_node.sh /opt/orchestrator
