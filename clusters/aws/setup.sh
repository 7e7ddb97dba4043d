#!/usr/bin/env bash
# setup.sh head|worker: set up a machine of cluster.yaml. `ray up` runs it again on the head after a change of
# the files that it copies there.
set -euo pipefail
PROJECT=~/segmentation-orchestrator
PYTHON=/opt/orchestrator/bin/python

# Ray may log in while cloud-init or the machine's own updates hold apt's locks. apt can wait for dpkg's lock,
# but not for that of the package lists.
cloud-init status --wait > /dev/null || true
for _ in {1..60}; do
  sudo apt-get -qq -o APT::Update::Error-Mode=any update && break
  sleep 10
done
sudo DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600 install -y \
  python3-venv python3-dev gcc rsync    # torch.compile needs a C compiler
sudo install -d -o "$USER" -g "$USER" /opt/orchestrator
python3 -m venv /opt/orchestrator
$PYTHON -m pip install --quiet --disable-pip-version-check --constraint "$PROJECT/constraints.txt" \
  --editable "${PROJECT}[cluster,head,pretrained]"
chmod 600 ~/.ray/auth_token
LINE="export PATH=/opt/orchestrator/bin:\$PATH RAY_AUTH_MODE=token"    # for commands over SSH
grep -qsxF "$LINE" ~/.bashrc || echo "$LINE" >> ~/.bashrc

service() { # service NAME COMMAND [SETTING...]: run a command now and at each boot, and again whenever it ends
  sudo systemctl stop "$1" 2> /dev/null || true
  printf '%s\n' '[Unit]' 'Wants=network-online.target' 'After=network-online.target nss-lookup.target' \
    '[Service]' "User=$USER" 'Environment=RAY_AUTH_MODE=token' 'Restart=always' 'RestartSec=10' "${@:3}" \
    "ExecStart=$2" '[Install]' 'WantedBy=multi-user.target' \
    | sudo tee "/etc/systemd/system/$1.service" > /dev/null
  sudo systemctl daemon-reload
  sudo systemctl enable --quiet --now "$1"
}

if [ "$1" = worker ]; then
  # The image mounts the machine's NVMe disks, if it has any: use them for the node cache.
  if mountpoint --quiet /opt/dlami/nvme; then
    sudo install -d -o "$USER" -g "$USER" /opt/dlami/nvme/cache
    mkdir -p ~/.cache
    ln -sfn /opt/dlami/nvme/cache ~/.cache/segmentation-orchestrator
  fi
  service spot-notice "$PYTHON -m orchestrator.cluster.aws_preemption"
  exit
fi

read -r BUCKET NAME < <($PYTHON -c '
import boto3, pathlib, yaml
config = yaml.safe_load(pathlib.Path("~/ray_bootstrap_config.yaml").expanduser().read_text())
region = config["provider"]["region"]
account = boto3.client("sts", region_name=region).get_caller_identity()["Account"]
print(config["metadata"]["bucket"], "-".join([account, region, config["cluster_name"]]))')
[ "$BUCKET" != my-bucket ] || { echo "edit the line \`bucket\` of cluster.yaml" >&2 && exit 1; }
# Clients write artifacts directly to the bucket. At the end only the command is signaled: it stops MLflow, then
# sends the last changes.
service tracking "$PYTHON -m orchestrator.server --directory /var/lib/tracking --port 5000 \
--replica s3://$BUCKET/tracking/$NAME --artifacts s3://$BUCKET/artifacts" \
  StateDirectory=tracking TimeoutStopSec=180 KillMode=mixed
# A restore may take any time.
until curl --silent --fail --max-time 15 --output /dev/null http://127.0.0.1:5000/health; do
  if [ "$(systemctl is-active tracking)" != active ]; then
    sudo journalctl --no-pager --output cat --unit tracking --lines 20 >&2
    exit 1
  fi
  sleep 1
done
echo "tracking server: http://127.0.0.1:5000 on this machine; $(hostname) writes s3://$BUCKET/tracking/$NAME"
