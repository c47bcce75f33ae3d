"""Tries what a policy must not have, each by a sender's local part, and says in its reason what came of it."""

import encodings.idna  # What host names are encoded with: at run time there is no file to load it from.
import os
import socket
import sys
import time

from wit_world import exports
from wit_world.imports import clock
from wit_world.imports.types import Answer, Decision_Pass, Explanation


def files():
    return open("/etc/passwd").read()


def folder():
    return os.listdir("/")


def writing():
    return open("/tmp/x", "w").write("x")


def network():
    return socket.create_connection(("127.0.0.1", 25))


def tcp():
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM)


def udp():
    return socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)


def names():
    return socket.getaddrinfo("localhost", 25)


def environment():
    return dict(os.environ) or sys.argv[1:] or "empty"


def stdin():
    return sys.stdin.read() or "empty"


def clocks():
    return "same" if int(time.time() * 1000) == clock.now() else "differ"


def standstill():
    before = time.monotonic()
    sum(range(100_000))
    return time.monotonic() - before


def nap():
    before = time.monotonic()
    time.sleep(0.01)
    return "slept" if time.monotonic() - before >= 0.01 else "did not sleep"


def forever():
    time.sleep(3600)


def chatter():
    for line in range(150):
        print("line", line, "x" * 5000 if line == 0 else "")


def says():
    print("to standard output")
    print("to standard error", file=sys.stderr)
    print("unfinished", end="")


class OnMail(exports.OnMail):
    def on_mail(self, session, sender) -> Answer:
        what = sender.local()
        try:
            said = str(globals()[what]())
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        sys.stdout.flush()
        return Answer(Decision_Pass(), [], Explanation(what, said, "", None))
