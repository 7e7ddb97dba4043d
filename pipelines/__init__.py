"""Everything that touches pixels: data, networks, training, evaluation and figures, in plain torch.

A reader of `preparation` turns a benchmark's files into Parquet shards, `data` makes batches of
them, `network` builds the model, `training` runs the loop and `evaluation` scores it. Imports
neither Ray nor MLflow, and nothing of orchestrator.
"""

import pipelines.namesakes  # noqa: F401  exits where another `models` would be imported
