"""Image files of a source: finding them, their headers, and their pixels of any depth and format.

Within `preparation` it imports nothing.
"""
