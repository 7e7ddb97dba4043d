"""A study from Python: open this file as a notebook, or run it.

    python examples/from_python.py

About 2 minutes on 2 CPU cores. In a notebook, the plan and the report show themselves; here they
are printed.
"""

# %% A study is a mapping of the same keys as a study file, or the path of one.
from orchestrator import Study

DATASET = "streets"

study = Study(
    {
        "study": "from-python",
        "compare_to": "strong",
        "base": {
            "data": {"dataset": DATASET, "crop": (96, 96)},
            "model": {"backbone": "dfnet1", "channels": 16},
            "training": {"epochs": 2, "batch": 8, "learning_rate": 0.05},
        },
        "variants": {
            "strong": {"set": {"model": {"flows": []}}},
            "flows": {"label": "with both flows"},
        },
        "seeds": [0, 1],
        "resources": {"workers": 1},
    },
    storage="storage",
)
print(study)

# %% What there is to train, how long it takes, and how much disk space it needs.
plan = study.plan()
print(plan)

# %% The same numbers as pandas frames.
print(plan.trials[["trial", "state", "parameters_m", "seconds"]])
print(plan.totals)

# %% Train what is missing. Interrupt the cell to stop, and run it again to continue.
finished = study.run()

# %% The table: one row per variant, mean and standard deviation over the seeds.
table = study.table()
print(table[["label", "n", "miou_mean", "miou_sd", "difference"]])

# %% Every trial, with all of its metrics in MLflow.
runs = study.runs()
print(runs[["trial", "state", "miou", "val/pixel_accuracy", "hours"]])

# %% The report with its statistics and charts.
report = study.report()
report.save("report")
print(report)
