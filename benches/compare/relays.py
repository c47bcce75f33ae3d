"""The relays that are compared, as objects with start(), stop(), port and pids(); each lives in a folder of its own.

Never: touches a server of the system. Fails with PeerError, which says what to do.
"""

import json
import os
import shutil
import signal
import subprocess
import sys

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "../.."))
sys.path.insert(0, os.path.join(ROOT, "tests/peers"))

import private  # noqa: E402
from nsd import Nsd  # noqa: E402
from postfix import Postfix  # noqa: E402

# The domain whose mail both relays take from anyone.
DOMAIN = "example.test"
BLOCK_LIST = "bl.peer.test"

# 127.0.0.2 is listed, as RFC 5782 wants of every list, and the benchmark's clients are not.
BLOCK_LIST_ZONE = """\
$TTL 300
@ SOA ns hostmaster 1 3600 600 86400 60
@ NS ns
ns A 127.0.0.1
2.0.0.127 A 127.0.0.2
"""

# Plugins as tables of a configuration. Each of these has its usual work to do on every message, but lets everything
# pass: its cost is what is measured.
ENOUGH = 1_000_000
PLUGINS = {
    "auth-relay": {"grants": ["credentials", "relay"], "config": {"allow_trusted_networks": True}},
    "rate-limit": {
        "grants": ["state"],
        "config": {
            "limits": [
                {"count": "connections", "per": "address", "rate": ENOUGH, "per_seconds": 1},
                {"count": "messages", "per": "network", "rate": ENOUGH, "per_seconds": 1},
                {"count": "recipients", "per": "sender-domain", "rate": ENOUGH, "per_seconds": 1},
            ]
        },
    },
    "rbl": {"grants": ["dns"], "config": {"lists": [{"zone": BLOCK_LIST, "weight": 1}]}},
    # Its defaults score every message, and only tag.
    "spam-scan": {"grants": ["read-message", "edit-message"]},
}


class PostfixRelay:
    """Postfix, durable as it is by default, with what slows it down without need taken away: no chroot, no look-up of the
    client's name, no pause while the queue is longer than what is delivered (in_flow_delay)."""

    name = "Postfix"

    def __init__(self, directory, sink_port):
        self.port = private.free_port()
        settings = {
            "relay_domains": DOMAIN,
            "in_flow_delay": "0s",
            # As many deliveries at a time as there are sessions, from the beginning.
            "initial_destination_concurrency": "20",
        }
        self.postfix = Postfix(directory, self.port, relayhost=f"127.0.0.1:{sink_port}", tls="none", main_cf=settings)

    def start(self):
        self.postfix.start()
        return self

    def stop(self):
        self.postfix.stop()

    def pids(self):
        return tree(self.postfix.master_pid())

    def version(self):
        return private.run([private.find_program("postconf", "postfix"), "-dh", "mail_version"], "postconf").strip()


class GatepostRelay:
    """Gatepost with its defaults, and some of the reference plugins: tables by name, asked in this order. `more` are
    further tables of the configuration."""

    name = "Gatepost"

    def __init__(self, directory, binary, sink_port, dns_port, plugins, more=""):
        self.directory = directory
        self.binary = binary
        self.plugins = plugins
        self.more = more
        self.trusted = []
        self.port = private.free_port()
        self.sink_port = sink_port
        self.dns_port = dns_port
        self.log = os.path.join(directory, "gatepost.log")
        self.process = None

    def start(self):
        private.make_reachable(self.directory)
        configuration = os.path.join(self.directory, "gatepost.toml")
        private.write(configuration, self.configuration())
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [self.binary, "run", "--config", configuration],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
            )
        try:
            private.wait_until(self.is_ready, private.READY_LIMIT_S, self.explain_silence)
        except private.PeerError:
            self.stop()
            raise
        return self

    def is_ready(self):
        if self.process.poll() is not None:
            raise private.PeerError(self.explain_silence())
        return private.greets(self.port)

    def explain_silence(self):
        with open(self.log, encoding="utf-8", errors="replace") as file:
            last = file.read().strip().splitlines()[-5:]
        return f"Gatepost does not greet on port {self.port}: " + " | ".join(last)

    def stop(self):
        """Asks it to drain; insists when it does not end."""
        if self.process is None:
            return
        family = self.pids()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(private.STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        # Its children are its own to end; what outlives it would spoil the next measurement.
        for pid in family:
            if private.is_alive(pid):
                private.end(pid)
        self.process = None

    def pids(self):
        return tree(self.process.pid)

    def version(self):
        done = subprocess.run([self.binary, "--version"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, check=False)
        return done.stdout.decode(errors="replace").strip().rpartition(" ")[2]

    def configuration(self):
        text = f"""\
hostname = "gatepost.peer.test"
state_dir = "{self.directory}/state"
relay_domains = ["{DOMAIN}"]
trusted_networks = {toml(self.trusted)}

[[listener]]
name = "smtp"
address = "127.0.0.1:{self.port}"
tls = "none"

[delivery]
next_hop = "smtp://127.0.0.1:{self.sink_port}"

[dns]
servers = ["127.0.0.1:{self.dns_port}"]

{self.more}
"""
        for name, table in self.plugins.items():
            # A copy, because the repository may be where the worker's user cannot reach it.
            file = shutil.copy(os.path.join(ROOT, "target/plugins", f"{name}.wasm"), self.directory)
            text += "\n[[plugin]]\n"
            for key, value in {**table, "name": name, "file": file}.items():
                text += f"{key} = {toml(value)}\n"
        return text


def toml(value):
    """A value of a TOML file, on one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    # Strings, numbers and booleans are written alike in both.
    return json.dumps(value)


def name_server(directory, zones):
    return Nsd(directory, private.free_port(), {BLOCK_LIST: BLOCK_LIST_ZONE, **zones})


def tree(root):
    """The ids of a process and all its living descendants."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            parent = stat_fields(entry)
            if parent is not None:
                children.setdefault(int(parent[1]), []).append(int(entry))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, [])
    return found


def stat_fields(pid):
    """/proc/PID/stat from the state on (proc(5) field 3), or None if the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None
