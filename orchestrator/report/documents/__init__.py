"""The report as text: the page, tables for terminals, Markdown and LaTeX, and records of values.

Imports `rows`, `tables`, `notes` and `charts` of `report`; reads no store and writes no file.
"""
