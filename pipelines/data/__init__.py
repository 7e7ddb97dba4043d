"""Prepared data sets and how batches are made from them: node cache, loading, augmentation.

Within pipelines, this package imports only `errors` and `wording`.
"""
