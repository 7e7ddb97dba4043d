"""The tracking store: runs, locks, links, models, and the pages that MLflow shows.

The only importer of MLflow. Of orchestrator it imports `study` and `storage`; never Ray.
"""
