"""The charts of a report, drawn with matplotlib; `figures` says which ones a study has.

Imports `rows` and `tables` of `report`; never `notes` or `documents`.
"""
