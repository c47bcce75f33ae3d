#!/usr/bin/env python3
"""A private NSD: an authoritative name server on a loopback port, with zones given as text.

    nsd.py start --dir DIR --port PORT --zone NAME=FILE [--zone ...]     returns when 127.0.0.1:PORT answers
    nsd.py stop --dir DIR                                                returns when it is gone

FILE is a zone file; relative names in it belong to NAME. Everything it writes is under DIR, its log is DIR/nsd.log. Needs
the Debian package nsd; no root. Fails with one line on standard error and exit status 1; 2 for wrong usage.

As a module: Nsd(DIR, PORT, {"bl.example.test": "@ SOA ..."}).start() and .stop().
"""

import argparse
import os
import socket
import struct
import sys

sys.dont_write_bytecode = True

import private  # noqa: E402  (beside this file; no cache folder is to be left in the sources)

CONFIGURATION = """\
server:
    ip-address: 127.0.0.1@{port}
    server-count: 1
    username: ""
    chroot: ""
    zonesdir: "{directory}"
    database: ""
    pidfile: "{directory}/nsd.pid"
    xfrdfile: "{directory}/xfrd.state"
    zonelistfile: "{directory}/zone.list"
    logfile: "{directory}/nsd.log"
remote-control:
    control-enable: no
"""
QUERY_LIMIT_S = 1
TYPE_SOA = 6
CLASS_IN = 1


class Nsd:
    """One private instance; `directory` is its own."""

    def __init__(self, directory, port=None, zones=None):
        self.directory = os.path.abspath(directory)
        self.port = port
        self.zones = zones or {}

    def start(self):
        command = private.find_program("nsd", "nsd")
        private.require_free(self.port)
        private.folder(self.directory)
        text = CONFIGURATION.format(port=self.port, directory=self.directory)
        for name, zone in self.zones.items():
            private.write(os.path.join(self.directory, f"{name}.zone"), zone)
            text += f'zone:\n    name: "{name}"\n    zonefile: "{name}.zone"\n'
        configuration = os.path.join(self.directory, "nsd.conf")
        private.write(configuration, text)
        private.run([command, "-c", configuration], "starting NSD")
        try:
            private.wait_until(
                lambda: all(answers(self.port, name) for name in self.zones),
                private.READY_LIMIT_S,
                f"NSD does not answer on port {self.port} for all its zones: see {self.directory}/nsd.log",
            )
        except private.PeerError:
            self.stop()
            raise
        return self

    def stop(self):
        """Also right when it is not running."""
        pid = private.read_pid(os.path.join(self.directory, "nsd.pid"))
        if pid is not None and private.is_alive(pid) and command_name(pid).startswith("nsd"):
            private.end(pid)


def command_name(pid):
    """A stale file's number may be somebody else's process by now."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def answers(port, zone):
    """Whether the server knows the zone's SOA."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in zone.strip(".").split("."))
    query = struct.pack(">6H", 1, 0, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", TYPE_SOA, CLASS_IN)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(QUERY_LIMIT_S)
        client.connect(("127.0.0.1", port))
        try:
            client.send(query)
            _, flags, _, answer_count, _, _ = struct.unpack(">6H", client.recv(512)[:12])
        except (OSError, struct.error):
            return False
    return flags & 0xF == 0 and answer_count > 0


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("action", choices=["start", "stop"])
    parser.add_argument("--dir", required=True)
    parser.add_argument("--port", type=int)
    parser.add_argument("--zone", action="append", default=[])
    options = parser.parse_args()
    if options.action == "start" and not (options.port and options.zone):
        parser.error("start needs --port and --zone")
    try:
        zones = {}
        for name, separator, path in (zone.partition("=") for zone in options.zone):
            if not separator:
                parser.error("--zone wants NAME=FILE")
            with open(path, encoding="utf-8") as file:
                zones[name] = file.read()
        getattr(Nsd(options.dir, options.port, zones), options.action)()
    except (private.PeerError, OSError) as error:
        sys.exit(f"nsd.py: {error}")


if __name__ == "__main__":
    main()
