"""The notes below a table: unfinished trials, warnings, and how its numbers were computed.

Imports `statistics`, `rows` and `tables` of `report`; never `charts` or `documents`.
"""
