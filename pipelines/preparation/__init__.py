"""Convert a data set to the prepared format: readers, checks, writing, previews.

Within pipelines it imports `errors`, `wording`, `option_types`, `machine`, `config` and `data`. It
cannot change a trained result, so it is not part of the code version.
"""
