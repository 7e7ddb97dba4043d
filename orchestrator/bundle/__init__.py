"""Bundles of finished studies for supplementary material: written, checked, and trained again.

A bundle is read without the study's data, tracking store and machine. Imports `study`, `tracking`,
`report`, `sweep`, `storage` and `console`.
"""
