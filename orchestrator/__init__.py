"""Studies, Ray Train and Ray Tune, the ledger in MLflow, and the commands.

Data flows one way: `source` reads a study file with the place of every value, `validation` holds it
against the types of `study`, `expansion` makes trials of it and `cells` opens what they name;
`reconciliation` says which of them the `ledger` has already, `fleet` trains the others through
`trial` and `worker`, `report` shows what came out. `sweep` is the command.
"""
