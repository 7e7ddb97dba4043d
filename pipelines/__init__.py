"""Everything that touches pixels: data sets, loading, augmentation, training and evaluation.

Data flows one way: a reader (`readers/`) names a benchmark's files, `prepare` checks them and
writes Parquet shards with a manifest, `dataset` opens the result, `loading` cuts crop windows from
it on the host, `augmentation` turns the windows into a batch on the device, and the loops in plain
torch train and score on it. This package knows neither Ray nor MLflow and imports nothing from
orchestrator/.
"""
