"""What this project records in MLflow besides tags: metrics and artifacts, with their meaning.

`docs/reference/mlflow.md` is generated from these tables; a test holds them against the runs of a
real study. NAME is the name of a protocol, CLASS that of a class, TERM that of a term of the loss,
KEY that of a metric.
"""

TRIAL_METRICS = {
    "epoch": "epochs trained",
    "train/loss": "loss, mean over the epoch's steps",
    "train/loss/OUTPUT": "loss of the main output or an auxiliary one, where there are several",
    "train/loss/OUTPUT/TERM": "one term of that loss, where `training.loss.terms` has several",
    "learning_rate": "of the epoch's last step",
    "images_per_second": "training images of all workers together",
    "memory_gib": "peak memory of one worker: reserved on its GPU, or of its process on a CPU",
    "val/miou": "mean IoU on the validation split, in [0, 1]",
    "val/best_miou": "the highest `val/miou` so far",
    "val/iou/CLASS": "IoU of one class",
    "val/dice": "mean Dice score over the classes",
    "val/pixel_accuracy": "share of labeled pixels that are right",
    "val/mean_accuracy": "mean over the classes of the share of their pixels that are right",
    "val/frequency_weighted_iou": "IoU weighted by the classes' frequencies",
    "val/KEY": "the score of a metric of `evaluation.metrics`, such as `val/boundary_f`",
    "val/KEY/CLASS": "its score of one class, if it has scores of classes",
    "val/seconds": "duration of the validation",
    "eval/latency/latency_ms": "median milliseconds of a forward pass (`latency`)",
    "eval/latency/latency_ms_p5, eval/latency/latency_ms_p95": "5th and 95th percentile of them",
    "eval/latency/inference_memory_gib": "peak memory of these passes",
    "eval/NAME/METRIC": "the scores of the last checkpoint under the protocol NAME",
    "model/parameters_m": "parameters, in millions",
    "model/gflops": "multiply-adds of one image of the crop's size, in 10^9",
    "trial/seconds": "training time, summed over resumes",
    "trial/gpu_hours": "hours of all GPUs together",
    "trial/worker_hours": "hours of all CPU workers together, where there is no GPU",
}

TRIAL_ARTIFACTS = {
    "confusion.csv, confusion.png": "confusion matrix of the last epoch",
    "counts.arrow": "true positives, false positives and false negatives by image and class",
    "statistics.arrow": "the sums of each image behind the metrics of `evaluation.metrics`",
    "panels.png": "validation images with label, prediction and errors",
    "pretrained.txt, init.txt": "which published or initial weights were loaded",
    "logs/": "output of the workers",
    "model": "the last checkpoint as an MLflow model: `runs:/ID/model`",
    "best/": "the checkpoint with the highest `val/miou`: `runs:/ID/best`",
    "eval/NAME/": "counts and statistics by image of a later evaluation",
}

STUDY_ARTIFACTS = {
    "study.yaml": "the study file",
    "study.resolved.yaml": "the study with all that it extends, and each `--set`",
    "report/": "the tables as Markdown, CSV and LaTeX, the HTML page, and its charts as PDF",
    "figures/": "drawings of predictions and features",
}
