"""A policy for Gatepost. What each hook sees and may answer stands in build/wit/deps/gatepost-policy, which the first build leaves there.

It takes no [plugin.config]. One that does has a class Lifecycle too: see wit/world.wit.
"""

from wit_world import exports

# Records of the interface are classes, `Reply(code, enhanced, text)`, and so is each case of a variant: `Decision_Reject`, `Action_AddHeader`.
from wit_world.imports.types import (
    Action_AddHeader,
    Answer,
    Decision_Pass,
    Decision_Reject,
    HeaderPlace,
    NewHeader,
    Reply,
)


def passed() -> Answer:
    return Answer(Decision_Pass(), [], None)


{{hooks}}
