"""All that a component of a plugin must do, in a line each."""

from physgen_strips.bijection import SinhArcsinh
from physgen_strips.detector import StripDetector

from physgen.testing import check_bijection, check_system


def test_the_detector():
    check_system(StripDetector())


def test_the_bijection():
    check_bijection(SinhArcsinh(3, 2))
