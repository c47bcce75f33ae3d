"""The policy of examples/hosting.toml with its limits raised and its services on this machine, and those services.

Never: touches a server of the system. Fails with PeerError, which says what to do.
"""

import os
import socket
import subprocess
import sys

import relays
from relays import private

EXAMPLE = os.path.join(relays.ROOT, "examples/hosting.toml")
# The domain whose mail comes in with an SPF and a DMARC record, and goes out signed.
SENDER_DOMAIN = "client.test"
SELECTORS = {"rsa": ["RSA", "-pkeyopt", "rsa_keygen_bits:2048"], "ed25519": ["ED25519"]}

# What a sender who does everything right has in the DNS.
ZONES = {
    SENDER_DOMAIN: """\
$TTL 300
@ SOA ns hostmaster 1 3600 600 86400 60
@ NS ns
ns A 127.0.0.1
@ A 127.0.0.1
@ MX 10 mail
mail A 127.0.0.1
@ TXT "v=spf1 a ip4:127.0.0.0/8 -all"
_dmarc TXT "v=DMARC1; p=reject"
""",
    # DMARC looks further up as well (RFC 9989 §4.10); a resolver has an answer there.
    "test": """\
$TTL 300
@ SOA ns.test. hostmaster.test. 1 3600 600 86400 60
@ NS ns.test.
ns.test. A 127.0.0.1
""",
    "127.in-addr.arpa": f"""\
$TTL 300
@ SOA ns.{SENDER_DOMAIN}. hostmaster.{SENDER_DOMAIN}. 1 3600 600 86400 60
@ NS ns.{SENDER_DOMAIN}.
1.0.0 PTR mail.{SENDER_DOMAIN}.
""",
}


class Clamd:
    """clamd with a single signature: what scanning costs the relay is measured, not the scanner."""

    def __init__(self, directory):
        self.directory = directory
        self.socket = os.path.join(directory, "clamd.ctl")
        self.process = None

    def start(self):
        private.folder(self.directory)
        private.write(os.path.join(self.directory, "own.ndb"), "Gatepost.Nothing:0:*:" + b"nothing has this".hex() + "\n")
        settings = os.path.join(self.directory, "clamd.conf")
        private.write(
            settings, f"DatabaseDirectory {self.directory}\nLocalSocket {self.socket}\nLocalSocketMode 666\nForeground yes\n"
        )
        self.process = subprocess.Popen(
            [private.find_program("clamd", "clamav-daemon"), "--config-file", settings],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        private.wait_until(self.answers, private.READY_LIMIT_S, "clamd does not answer")
        return self

    def answers(self):
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(self.socket)
                client.sendall(b"zPING\0")
                return client.recv(16).startswith(b"PONG")
            except OSError:
                return False

    def stop(self):
        self.process.terminate()
        self.process.wait()


def plugins(clamd):
    """The example's plugins, as tables by name, so that all mail of a benchmark passes."""
    try:
        import tomllib
    except ImportError:
        raise private.PeerError(f"this part needs Python 3.11, and this is {sys.version.split()[0]}") from None
    with open(EXAMPLE, "rb") as file:
        tables = {table["name"]: table for table in tomllib.load(file)["plugin"]}
    for table in tables.values():
        # A plugin that fails does not do the work that is measured.
        table["on_failure"] = "defer"
    config = tables["rate-limit"]["config"]
    for limit in config["limits"]:
        limit["rate"] = relays.ENOUGH
    config["brake"]["at_least"] = relays.ENOUGH
    tables["rbl"]["config"]["lists"] = [{"zone": relays.BLOCK_LIST}]
    # The load comes without TLS and passwords, which cost the same with any policy.
    tables["auth-relay"]["config"].update(require_tls=False, allow_trusted_networks=True)
    tables["virus-scan"]["endpoints"] = {"clamd": f"unix:{clamd.socket}"}
    return tables


def signed_with(tables, *selectors):
    """The same, with dkim-sign using these keys alone."""
    config = {"trusted_networks": True, "domains": {SENDER_DOMAIN: list(selectors)}}
    return {name: {**table, "config": config} if name == "dkim-sign" else table for name, table in tables.items()}


def keys(directory):
    """The configuration of a key of each kind, for the sender's domain."""
    private.folder(directory)
    text = ""
    for selector, algorithm in SELECTORS.items():
        path = os.path.join(directory, f"{selector}.pem")
        private.run(
            [private.find_program("openssl", "openssl"), "genpkey", "-algorithm", *algorithm, "-out", path], "making a key"
        )
        os.chmod(path, 0o600)
        text += f'[[dkim]]\ndomain = "{SENDER_DOMAIN}"\nselector = "{selector}"\nkey = "{path}"\n'
    return text
