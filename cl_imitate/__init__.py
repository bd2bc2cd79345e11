"""Measure whether a frozen sequence model can imitate a continual learner."""

__version__ = "0.1.0"
