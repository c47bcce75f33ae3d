#!/usr/bin/python3
"""Verifies the DKIM signatures of a message with python3-dkim, one after the other, from the top.

    dkim_verify.py PORT FILE     asks the name server on 127.0.0.1:PORT

It runs with Debian's Python, whatever comes first in PATH, as the packages python3-dkim and python3-dnspython are there.

Prints a line a signature: `ok d=DOMAIN s=SELECTOR a=ALGORITHM`, or the same with `bad`.
"""

import re
import sys

import dkim
import dns.exception
import dns.resolver

LOOKUP_LIMIT_S = 10


def main():
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = ["127.0.0.1"]
    resolver.port = int(sys.argv[1])

    def txt(name, timeout=LOOKUP_LIMIT_S):
        try:
            answer = resolver.resolve(name.decode(), "TXT", lifetime=LOOKUP_LIMIT_S)
        except dns.exception.DNSException:
            return None
        return b"".join(answer[0].strings)

    with open(sys.argv[2], "rb") as file:
        message = file.read()
    fields = re.findall(rb"^DKIM-Signature:(.*(?:\r\n[ \t].*)*)", message, re.MULTILINE | re.IGNORECASE)
    for index, field in enumerate(fields):
        tags = dict(tag.split(b"=", 1) for tag in re.sub(rb"\s", b"", field).split(b";") if tag)
        try:
            good = dkim.DKIM(message).verify(index, dnsfunc=txt)
        except dkim.DKIMException:
            good = False
        words = [f"{name}={tags[name.encode()].decode()}" for name in "dsa"]
        print("ok" if good else "bad", *words)


if __name__ == "__main__":
    main()
