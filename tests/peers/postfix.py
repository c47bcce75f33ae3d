#!/usr/bin/env python3
"""A private Postfix: a real next hop, and a real client that relays through Gatepost.

    postfix.py start --dir DIR --port PORT [OPTION...]      returns when 127.0.0.1:PORT greets with 220
    postfix.py stop --dir DIR                               returns when every process of it is gone
    postfix.py flush --dir DIR                              tries what is queued again, now

As a next hop that stores what it gets:

    --store DOMAIN[,DOMAIN...]   every recipient there is good, and its mail becomes a file in DIR/mail/all/new/
                                 (LF line ends; Postfix puts Return-Path, X-Original-To, Delivered-To and its Received on top)

As a client (what is sent to its port it relays on):

    --relayhost HOST:PORT        an address goes without brackets; no MX is looked up
    --tls none|may|encrypt|wrap  how it connects to the relayhost; `wrap` is TLS from the first byte (default: may)
    --tls-ca FILE                the certificate must verify against this, and carry the name HOST (encrypt, wrap)
    --user NAME --password PASSWORD    it authenticates (PLAIN or LOGIN) to the relayhost

As a server with TLS:

    --certificate FILE --key FILE      offers STARTTLS

Everything it writes is under DIR, which other users must be able to pass (not below a home); its log is DIR/mail.log,
its queue DIR/queue. Needs root, because Postfix does, and the Debian packages postfix and libsasl2-modules. It is no
service of the system's and uses nothing of /etc/postfix but the list of its table drivers. Fails with one line on
standard error and exit status 1; 2 for wrong usage.

As a module: Postfix(DIR, PORT, store=[...], ...).start() and .stop(), the same by keyword; `main_cf` adds settings.
"""

import argparse
import os
import sys

sys.dont_write_bytecode = True

import private  # noqa: E402  (beside this file; no cache folder is to be left in the sources)

# The services of a mail system that neither delivers locally nor talks to anybody on its own.
MASTER_CF = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup    unix  n  -  n  60  1  pickup
cleanup   unix  n  -  n  -   0  cleanup
qmgr      unix  n  -  n  300 1  qmgr
tlsmgr    unix  -  -  n  1000? 1 tlsmgr
rewrite   unix  -  -  n  -   -  trivial-rewrite
bounce    unix  -  -  n  -   0  bounce
defer     unix  -  -  n  -   0  bounce
trace     unix  -  -  n  -   0  bounce
verify    unix  -  -  n  -   1  verify
flush     unix  n  -  n  1000? 0 flush
proxymap  unix  -  -  n  -   -  proxymap
smtp      unix  -  -  n  -   -  smtp
relay     unix  -  -  n  -   -  smtp
error     unix  -  -  n  -   -  error
retry     unix  -  -  n  -   -  error
discard   unix  -  -  n  -   -  discard
virtual   unix  -  n  n  -   -  virtual
anvil     unix  -  -  n  -   1  anvil
scache    unix  -  -  n  -   1  scache
postlog   unix-dgram n - n -  1  postlogd
"""

# Debian's places.
DAEMONS = "/usr/lib/postfix/sbin"
TLS_LEVELS = {"none": "none", "may": "may", "encrypt": "encrypt", "wrap": "encrypt"}


class Postfix:
    """One private instance; `directory` is its own."""

    def __init__(self, directory, port=None, **options):
        self.directory = os.path.abspath(directory)
        self.port = port
        self.options = options
        self.etc = os.path.join(self.directory, "etc")
        self.passwords = os.path.join(self.etc, "passwords")
        self.log = os.path.join(self.directory, "mail.log")

    def start(self):
        private.require_root("Postfix")
        command = private.find_program("postfix", "postfix")
        owner = private.user("postfix", "postfix")
        if self.master_pid() is not None:
            raise private.PeerError(f"a Postfix is running in {self.directory} already")
        private.require_free(self.port)
        private.make_reachable(self.directory)
        private.folder(self.etc)
        private.folder(os.path.join(self.directory, "queue"))
        private.folder(os.path.join(self.directory, "data"), owner, 0o700)
        private.folder(os.path.join(self.directory, "mail"), private.user("nobody", "base-passwd"), 0o700)
        private.write(os.path.join(self.etc, "main.cf"), self.main_cf())
        if self.options.get("user"):
            secret = f"{self.relayhost()} {self.options['user']}:{self.options['password']}\n"
            private.write(self.passwords, secret, 0o600)
        private.write(os.path.join(self.etc, "master.cf"), MASTER_CF.format(port=self.port))
        private.run([command, "-c", self.etc, "start"], "starting Postfix")
        try:
            private.wait_until(self.is_ready, private.READY_LIMIT_S, self.explain_silence)
        except private.PeerError:
            self.stop()
            raise
        return self

    def stop(self):
        """Also right when it is not running."""
        pid = self.master_pid()
        if pid is None:
            return
        command = private.find_program("postfix", "postfix")
        # The script looks for the master by its lock, and ends its whole process group.
        private.run([command, "-c", self.etc, "stop"], "stopping Postfix")
        private.wait_until(lambda: not private.is_alive(pid), private.STOP_LIMIT_S, f"Postfix (process {pid}) does not end")

    def flush(self):
        private.run([private.find_program("postqueue", "postfix"), "-c", self.etc, "-f"], "flushing the queue")

    def master_pid(self):
        """The id of its master process, or None if it is not running."""
        pid = private.read_pid(os.path.join(self.directory, "queue/pid/master.pid"))
        return pid if pid is not None and private.is_alive(pid) and self.is_ours(pid) else None

    def is_ours(self, pid):
        """A stale file's number may be somebody else's process by now."""
        try:
            return os.path.samefile(f"/proc/{pid}/cwd", os.path.join(self.directory, "queue"))
        except OSError:
            return False

    def is_ready(self):
        if self.master_pid() is None:
            raise private.PeerError(self.explain_silence())
        return private.greets(self.port)

    def explain_silence(self):
        try:
            with open(self.log, encoding="utf-8", errors="replace") as file:
                last = file.read().strip().splitlines()[-5:]
        except OSError:
            last = ["no log was written"]
        return f"Postfix does not greet on port {self.port}: " + " | ".join(last)

    def main_cf(self):
        lines = [f"{key} = {value}" for key, value in self.settings().items()]
        return "\n".join(lines) + "\n"

    def settings(self):
        at = lambda name: os.path.join(self.directory, name)  # noqa: E731
        settings = {
            "compatibility_level": "3.6",
            "command_directory": "/usr/sbin",
            "daemon_directory": DAEMONS,
            "queue_directory": at("queue"),
            "data_directory": at("data"),
            "mail_owner": "postfix",
            "setgid_group": "postdrop",
            "maillog_file": self.log,
            "maillog_file_prefixes": self.directory,
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4",
            "myhostname": "postfix.peer.test",
            "mydestination": "",
            "alias_maps": "",
            "alias_database": "",
            "local_recipient_maps": "",
            "mynetworks": "127.0.0.0/8",
            "smtpd_relay_restrictions": "permit_mynetworks, reject_unauth_destination",
            # Nothing here has a name in the DNS.
            "smtpd_peername_lookup": "no",
            "smtp_dns_support_level": "disabled",
            # What arrives is to be compared with what was sent: no header is taken out (Return-Path, Bcc) or tidied up.
            "message_drop_headers": "",
            "local_header_rewrite_clients": "",
            "message_size_limit": "52428800",
            "mailbox_size_limit": "0",
            "virtual_mailbox_limit": "0",
            # Tests wait for a retry: seconds, where the defaults are minutes.
            "minimal_backoff_time": "5s",
            "maximal_backoff_time": "5s",
            "queue_run_delay": "5s",
        }
        store = self.options.get("store")
        if store:
            nobody = private.user("nobody", "base-passwd")
            settings |= {
                "virtual_mailbox_domains": ", ".join(store),
                "virtual_mailbox_base": at("mail"),
                "virtual_mailbox_maps": "static:all/",
                "virtual_uid_maps": f"static:{nobody.pw_uid}",
                "virtual_gid_maps": f"static:{nobody.pw_gid}",
            }
        if self.options.get("relayhost"):
            settings |= self.relay_settings()
        if self.options.get("certificate"):
            settings |= {
                "smtpd_tls_security_level": "may",
                "smtpd_tls_chain_files": f"{self.options['key']}, {self.options['certificate']}",
            }
        return settings | self.options.get("main_cf", {})

    def relayhost(self):
        """In Postfix's words: the brackets mean that no MX is looked up."""
        host, _, port = self.options["relayhost"].rpartition(":")
        return f"[{host.strip('[]')}]:{port}"

    def relay_settings(self):
        tls = self.options.get("tls") or "may"
        settings = {
            "relayhost": self.relayhost(),
            "smtp_tls_security_level": TLS_LEVELS[tls],
            "smtp_tls_wrappermode": "yes" if tls == "wrap" else "no",
            "smtp_tls_loglevel": "1",
        }
        if self.options.get("tls_ca"):
            settings |= {"smtp_tls_CAfile": self.options["tls_ca"], "smtp_tls_security_level": "verify"}
        if self.options.get("user"):
            settings |= {
                "smtp_sasl_auth_enable": "yes",
                "smtp_sasl_security_options": "noanonymous",
                "smtp_sasl_mechanism_filter": "plain, login",
                "smtp_sasl_password_maps": f"texthash:{self.passwords}",
            }
        return settings


def main():
    parser = argparse.ArgumentParser(usage=__doc__, add_help=True)
    parser.add_argument("action", choices=["start", "stop", "flush"])
    parser.add_argument("--dir", required=True)
    parser.add_argument("--port", type=int)
    parser.add_argument("--store", type=lambda text: text.split(","))
    parser.add_argument("--relayhost")
    parser.add_argument("--tls", choices=list(TLS_LEVELS))
    parser.add_argument("--tls-ca")
    parser.add_argument("--user")
    parser.add_argument("--password")
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    options = vars(parser.parse_args())
    action, directory, port = options.pop("action"), options.pop("dir"), options.pop("port")
    for given, needed in (("user", "password"), ("certificate", "key"), ("user", "relayhost")):
        if options[given] and not options[needed]:
            parser.error(f"--{given} needs --{needed}")
    if action == "start" and not port:
        parser.error("start needs --port")
    try:
        getattr(Postfix(directory, port, **options), action)()
    except private.PeerError as error:
        sys.exit(f"postfix.py: {error}")


if __name__ == "__main__":
    main()
