"""The source of a metric of the user's own, which tests write into a module."""

WRONG = """\
import torch
from pipelines.evaluation.metrics import Metric

class Wrong(Metric):
    def __init__(self, factor: float = 1.0):
        self.factor = factor

    def statistics(self, prediction, labels):
        valid = labels != 255
        wrong = self.factor * (prediction != labels)[valid].sum().double()
        return torch.stack([wrong, valid.sum().double()])

    def score(self, sums):
        return sums[..., 0] / sums[..., 1]
"""
