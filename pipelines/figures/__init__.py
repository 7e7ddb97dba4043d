"""Figures of predictions and features.

Within pipelines it imports `data` alone: it draws what others compute. It cannot change a trained
result, so it is not part of the code version.
"""
