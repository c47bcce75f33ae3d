"""What is measured, and how: a load from smtp-source, arrival in smtp-sink, CPU time and memory from /proc.

Both programs are Postfix's own, and the same for every relay. Fails with PeerError.
"""

import fcntl
import os
import re
import resource
import selectors
import socket
import subprocess
import time
from dataclasses import dataclass

import relays
from relays import private

SESSIONS = 20
MESSAGE_BYTES = 4096
# A relay that needs longer for one run has failed.
RUN_LIMIT_S = 300
# How often the sink's counter is read; end-to-end times are that exact.
COUNT_POLL_S = 0.01
# After the last arrival, for what a relay has left to write about it.
SETTLE_S = 0.3
# Proc(5): fields 16 and 17 of stat (of children that were waited for), counted from the state (field 3).
CHILDREN_CPU_FIELDS = slice(13, 15)
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")

# The idle clients share addresses, below the relays' usual limits for one of them.
IDLE_PER_ADDRESS = 50
IDLE_LIMIT_S = 120


@dataclass
class Run:
    """One load of one relay."""

    accepted_per_s: float
    end_to_end_per_s: float
    cpu_us_per_message: float


class Sink:
    """smtp-sink on a port of its own; counts the messages that arrived."""

    def __init__(self, directory):
        self.port = private.free_port()
        self.directory = directory
        self.received = 0
        self.process = None

    def start(self):
        private.folder(self.directory)
        # -c writes its counters whenever one changes; nothing is stored.
        self.process = subprocess.Popen(
            [private.find_program("smtp-sink", "postfix"), "-c", "-u", "nobody", f"127.0.0.1:{self.port}", "1024"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            cwd=self.directory,
        )
        # Large enough for what it writes while nobody reads: a full pipe would stop it.
        fcntl.fcntl(self.process.stdout, fcntl.F_SETPIPE_SZ, 1 << 20)
        os.set_blocking(self.process.stdout.fileno(), False)
        private.wait_until(lambda: private.greets(self.port), private.READY_LIMIT_S, "smtp-sink does not greet")
        return self

    def stop(self):
        if self.process is not None:
            self.process.terminate()
            self.process.wait()

    def count(self):
        """All messages since the start. Counters are printed as running text; the last complete one holds."""
        text = b""
        while chunk := self.process.stdout.read(1 << 20):
            text = text[-64:] + chunk
        seen = re.findall(rb"mesg=(\d+)\D", text)
        if seen:
            self.received = int(seen[-1])
        return self.received


def load(port, messages, count):
    """Sends `messages`, and returns the seconds until all were accepted, and until `count` has risen by as many."""
    before = count()
    command = [private.find_program("smtp-source", "postfix"), "-4", "-d"]
    command += ["-s", str(SESSIONS), "-l", str(MESSAGE_BYTES), "-m", str(messages)]
    command += ["-f", "sender@client.test", "-t", f"recipient@{relays.DOMAIN}", f"127.0.0.1:{port}"]
    # What earlier runs left to the disk must not be written on this one's time.
    os.sync()
    started = time.monotonic()
    source = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    accepted = None
    arrived = 0
    try:
        while arrived < messages:
            time.sleep(COUNT_POLL_S)
            now = time.monotonic()
            if accepted is None and source.poll() is not None:
                if source.returncode != 0:
                    raise private.PeerError("smtp-source: " + source.stderr.read().decode(errors="replace").strip())
                accepted = now
            arrived = count() - before
            if now - started > RUN_LIMIT_S:
                raise private.PeerError(f"after {RUN_LIMIT_S} s only {arrived} of {messages} messages have arrived")
    finally:
        if source.poll() is None and arrived < messages:
            source.kill()
        source.wait()
        source.stderr.close()
    finished = time.monotonic()
    # The last message may arrive before smtp-source has ended.
    return (accepted or finished) - started, finished - started


def measure(relay, sink, messages):
    """Loads a relay that is running and idle."""
    before = cpu_s(relay.pids())
    accepted_s, end_to_end_s = load(relay.port, messages, sink.count)
    time.sleep(SETTLE_S)
    used = cpu_s(relay.pids()) - before
    return Run(messages / accepted_s, messages / end_to_end_s, used * 1e6 / messages)


def cpu_s(pids):
    """Seconds of user and system time of processes and of the children they have waited for."""
    seconds = 0.0
    for pid in pids:
        fields = relays.stat_fields(pid)
        if fields is None:
            continue
        try:
            # What clock_getcpuclockid(3) gives for a process: in nanoseconds, where stat counts in hundredths of a second.
            seconds += time.clock_gettime(~pid << 3 | 2)
        except OSError:
            # It ended just now: whoever waits for it counts it.
            continue
        seconds += sum(map(int, fields[CHILDREN_CPU_FIELDS])) / CLOCK_TICKS
    return seconds


def memory_mb(pids):
    """Resident megabytes of processes, each shared page counted once (PSS), and the plain sum of their RSS."""
    total = {"Pss": 0, "Rss": 0}
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key in total:
                    total[key] += int(value.split()[0])
    return total["Pss"] * 1024 / 1e6, total["Rss"] * 1024 / 1e6


class IdleSessions:
    """Clients that said EHLO, were answered, and then say nothing."""

    def __init__(self, port, count):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = count + 256
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise private.PeerError(f"{count} idle sessions need {wanted} open files, and the limit is {hard}: ulimit -Hn")
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        self.port = port
        self.count = count
        self.sockets = []

    def __enter__(self):
        """Opens them a hundred at a time, and returns when all were greeted and answered."""
        until = time.monotonic() + IDLE_LIMIT_S
        for first in range(0, self.count, 100):
            batch = [self.connect(number) for number in range(first, min(first + 100, self.count))]
            self.sockets += batch
            self.converse(batch, until)
        return self

    def __exit__(self, *_):
        for connection in self.sockets:
            connection.close()

    def connect(self, number):
        host = number // IDLE_PER_ADDRESS
        address = f"127.1.{host // 250}.{host % 250 + 1}"
        return socket.create_connection(("127.0.0.1", self.port), timeout=IDLE_LIMIT_S, source_address=(address, 0))

    def converse(self, batch, until):
        selector = selectors.DefaultSelector()
        for connection in batch:
            connection.setblocking(False)
            selector.register(connection, selectors.EVENT_READ, {"greeted": False, "text": b""})
        while selector.get_map():
            ready = selector.select(timeout=max(0, until - time.monotonic()))
            if not ready:
                raise private.PeerError(f"{len(selector.get_map())} of {self.count} idle sessions got no answer to EHLO")
            for key, _ in ready:
                chunk = key.fileobj.recv(4096)
                state = key.data
                state["text"] += chunk
                last = state["text"].splitlines()[-1] if state["text"].endswith(b"\n") else b""
                if not chunk or (last and last[:1] != b"2"):
                    raise private.PeerError(f"an idle session was refused: {state['text'][-200:]!r}")
                if last[3:4] != b" ":
                    continue
                if state["greeted"]:
                    selector.unregister(key.fileobj)
                else:
                    state.update(greeted=True, text=b"")
                    key.fileobj.send(b"EHLO idle.client.test\r\n")
        selector.close()
