"""What the helpers that start private servers share: folders, ports, waiting. Python 3.9, standard library only.

Never: touches a server of the system, a file outside the given folder, or a process that it did not start.
"""

import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import time

# Seconds that a server may take to accept connections, and to go away.
READY_LIMIT_S = 30
STOP_LIMIT_S = 20
POLL_S = 0.02


class PeerError(Exception):
    """A peer could not be started or stopped; says what to do."""


def require_root(what):
    if os.geteuid() != 0:
        raise PeerError(f"{what} can only be started by root (its parts run as users of their own)")


def find_program(name, package):
    """The path of a program, which may be in /usr/sbin."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        raise PeerError(f"{name} is not installed (Debian: apt-get install {package})")
    return found


def user(name, package):
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise PeerError(f"there is no user {name}, which the package {package} makes") from None


def make_reachable(folder_path):
    """Makes the folder (a fresh temporary one is 0700) passable for other users, after a look at those above it."""
    above = os.path.dirname(os.path.realpath(folder_path))
    while above != "/":
        if os.path.exists(above) and not os.stat(above).st_mode & stat.S_IXOTH:
            raise PeerError(
                f"{above} lets no other user pass, so servers cannot reach {folder_path}: use a folder in /tmp or /var/tmp"
            )
        above = os.path.dirname(above)
    os.makedirs(folder_path, exist_ok=True)
    os.chmod(folder_path, stat.S_IMODE(os.stat(folder_path).st_mode) | 0o711)


def folder(path, owner=None, mode=0o755):
    os.makedirs(path, exist_ok=True)
    os.chmod(path, mode)
    if owner is not None:
        os.chown(path, owner.pw_uid, owner.pw_gid)
    return path


def write(path, text, mode=0o644):
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as file:
        file.write(text)


def run(command, what):
    """Runs a command to its end; its output is shown only when it fails."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        raise PeerError(f"{what} failed ({' '.join(command)}): {done.stdout.decode(errors='replace').strip()}")
    return done.stdout.decode(errors="replace")


def free_port():
    """A TCP port of 127.0.0.1 that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def require_free(port):
    """Fails if somebody has the port: whoever that is might greet like the peer that is to be started."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise PeerError(f"port {port} of 127.0.0.1 cannot be had: {error.strerror}") from None


def wait_until(condition, limit_s, failure):
    """Polls until the condition holds; `failure` is the message, or a function that makes it."""
    until = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > until:
            raise PeerError(failure() if callable(failure) else failure)
        time.sleep(POLL_S)


def greets(port, address="127.0.0.1"):
    """Whether an SMTP server answers with its 220."""
    try:
        with socket.create_connection((address, port), timeout=5) as connection:
            return connection.recv(3) == b"220"
    except OSError:
        return False


def read_pid(path):
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read().strip())
    except (OSError, ValueError):
        return None


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def end(pid):
    """Ends one process by its id: asks, waits, then insists."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, number)
            wait_until(lambda: not is_alive(pid), STOP_LIMIT_S, f"process {pid} does not end")
            return
        except ProcessLookupError:
            return
        except PeerError:
            if number == signal.SIGKILL:
                raise
