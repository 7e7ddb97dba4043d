"""Names of the files of a checkpoint and of a model directory."""

WEIGHTS_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
#: The weights that the training continues from, where `WEIGHTS_FILE` holds their average.
TRAINED_FILE = "trained.safetensors"
STATE_FILE = "state.json"
