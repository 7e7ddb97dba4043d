"""The rows of a study's table: its trials' runs and results, aggregated over seeds and compared.

Holds numbers, not texts. Imports `statistics` of `report`; never `tables` or what shows them.
"""
