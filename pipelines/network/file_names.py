"""Names of the files of a checkpoint and of a model directory."""

WEIGHTS_FILE = "model.safetensors"
MOMENTUM_FILE = "momentum.safetensors"
STATE_FILE = "state.json"
