"""Greylisting in Python: who writes to somebody for the first time is asked to come again. Grant: state.

    [plugin.config]
    delay_s = 300            # how long a stranger has to wait
    keep_s  = 2592000        # how long it is remembered
    allow   = ["192.0.2.7", "friends.example"]   # client addresses and sender domains that need not wait
"""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import clock, state
from wit_world.imports.types import Answer, Decision_Defer, Decision_Pass, Explanation, Reply

DEFAULTS = {"delay_s": 300, "keep_s": 30 * 86400, "allow": []}

config = dict(DEFAULTS)


def seconds(value):
    return type(value) is int and 1 <= value <= 0xFFFFFFFF


def texts(value):
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


class Lifecycle(exports.Lifecycle):
    def configure(self, text: str) -> None:
        given = json.loads(text)
        for key, value in given.items():
            if key not in DEFAULTS:
                raise Err(f"{key}: there is no such key; there are delay_s, keep_s and allow")
            if key == "allow" and not texts(value):
                raise Err('allow: must be a list of texts, as in ["192.0.2.7", "friends.example"]')
            if key != "allow" and not seconds(value):
                raise Err(f"{key}: must be a whole number of seconds from 1 to 4294967295")
        config.update(given)


class OnRcpt(exports.OnRcpt):
    def on_rcpt(self, session, recipient, relay) -> Answer:
        # What is not ours is the relay gate's business, and who logged in is no stranger.
        if not relay.ours or session.identity() is not None:
            return passed()
        client = session.peer().address
        sender = session.sender() or ""
        domain = sender.rpartition("@")[2].lower()
        if client in config["allow"] or domain in config["allow"]:
            return passed()
        key = f"{client} {sender} {recipient.address()}"
        now = clock.now()
        try:
            known = state.get(key)
            if known is None:
                state.set(key, str(now).encode(), config["keep_s"])
        except Err:
            # Without its memory greylisting would refuse everybody for ever.
            return passed()
        first = now if known is None else int(known)
        left_ms = first + config["delay_s"] * 1000 - now
        return passed() if left_ms <= 0 else wait((left_ms + 999) // 1000, key)


def passed() -> Answer:
    return Answer(Decision_Pass(), [], None)


def wait(left_s: int, key: str) -> Answer:
    reply = Reply(450, "4.7.1", f"Greylisted: try again in {left_s} seconds")
    why = Explanation("greylisted", key, "Wait, or put the client or the sender's domain into allow", None)
    return Answer(Decision_Defer(reply), [], why)
