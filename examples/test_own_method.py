"""The conformance suite applied to the example method."""

from examples.own_method import Smoothed
from mm_balance.testing import MethodConformance


class TestSmoothed(MethodConformance):
    method = Smoothed
