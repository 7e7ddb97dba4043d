"""Prepared data sets and the way from them to a batch: node cache, loading, augmentation.

Of pipelines it imports only `config` and `errors`.
"""
