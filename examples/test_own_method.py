"""The public suite, for a method of one's own."""

from examples.own_method import Smoothed
from mm_balance.testing import MethodConformance


class TestSmoothed(MethodConformance):
    method = Smoothed
