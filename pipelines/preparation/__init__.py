"""From a benchmark's own layout to a prepared data set: readers, checks, writing, previews.

Of pipelines it imports `data`. Decides no trained result: it does not count for the code version.
"""
