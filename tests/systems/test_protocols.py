"""A system has what a protocol says, not another method that happens to be called the same."""

import inspect
from importlib.metadata import entry_points

import pytest

from physgen.systems import base

PROTOCOLS = [one for name, one in vars(base).items() if name.startswith("Has")]
SYSTEMS = {
    one.name: one.load()
    for one in entry_points(group="physgen.systems")
    if one.value.startswith("physgen.")
}


def members(protocol):
    return [one for one in dir(protocol) if not one.startswith("_")]


PAIRS = [
    pytest.param(system, protocol, id=f"{name}-{protocol.__name__}")
    for name, system in SYSTEMS.items()
    for protocol in PROTOCOLS
    if all(hasattr(system, member) for member in members(protocol))
]


@pytest.mark.parametrize(("system", "protocol"), PAIRS)
def test_methods_of_a_protocol_take_its_arguments(system, protocol):
    for member in filter(lambda one: inspect.isfunction(getattr(protocol, one)), members(protocol)):
        parameters = inspect.signature(getattr(protocol, member)).parameters.values()
        by_name = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
        others = [None] * (len(parameters) - len(by_name))
        inspect.signature(getattr(system, member)).bind(*others, **dict.fromkeys(by_name))
