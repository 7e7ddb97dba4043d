"""Bootstrap, spread over seeds, intervals, p values and power, from scores and counts by image.

Knows no row and no table: imports no other package of `report`.
"""
