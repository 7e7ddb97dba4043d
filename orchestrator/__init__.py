"""Studies, Ray Train and Ray Tune, the ledger in MLflow, and the commands.

Data flows one way: `source` reads a study file with the place of every value, `study` validates it
and expands it into trials, `ledger` says which of them exist already, `fleet` trains the others
through `trial` and `worker`, `table` prints what came out. `sweep` is the command.
"""
