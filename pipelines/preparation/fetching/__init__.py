"""Published data sets: where they are, download, and unpacking.

Within `preparation` it imports `readers`; nothing there imports it.
"""
