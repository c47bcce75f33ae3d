"""A policy for Gatepost. What each hook sees and may answer stands in build/wit/deps/gatepost-policy, which the first build leaves there.

It takes no [plugin.config]. One that does has a class Lifecycle too: see wit/world.wit.
"""

from wit_world import exports
from wit_world.imports.types import Answer, Decision_Pass


def passed() -> Answer:
    return Answer(Decision_Pass(), [], None)


{{hooks}}
