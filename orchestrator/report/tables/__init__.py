"""Tables as columns of text, for every format: the main table, the grid, classes, and searches.

Imports `statistics` and `rows` of `report`; never `notes`, `charts` or `documents`.
"""
