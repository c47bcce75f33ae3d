#!/usr/bin/env python3
"""Python's smtplib as a client of a submission listener: STARTTLS, AUTH, and each extension that it can use.

    smtplib_client.py HOST PORT USER PASSWORD SENDER RECIPIENT

Sends three messages to RECIPIENT, with the subjects `smtplib 8bit`, `smtplib utf8` and `smtplib login`. Fails with a traceback.
"""

import email.message
import smtplib
import ssl
import sys

host, port, user, password, sender, recipient = sys.argv[1:]
anyone = ssl.create_default_context()
anyone.check_hostname = False
anyone.verify_mode = ssl.CERT_NONE


def connect():
    client = smtplib.SMTP(host, int(port), timeout=30)
    client.ehlo("smtplib.peer.test")
    client.starttls(context=anyone)
    client.ehlo("smtplib.peer.test")
    return client


with connect() as client:
    for extension in ("size", "8bitmime", "smtputf8", "dsn", "pipelining", "enhancedstatuscodes", "chunking"):
        assert client.has_extn(extension), f"{extension} is not offered: {client.esmtp_features}"
    limit = int(client.esmtp_features["size"])
    client.login(user, password)
    # SIZE: refused before a byte of it is sent.
    code, reply = client.mail(sender, [f"SIZE={limit + 1}"])
    assert code == 552 and reply.startswith(b"5.3.4"), (code, reply)
    # smtplib declares SIZE itself.
    body = "Subject: smtplib 8bit\r\n\r\n" + "\u00e4\u00f6\u00fc\r\n"
    refused = client.sendmail(sender, [recipient], body.encode(), ["BODY=8BITMIME", "RET=HDRS"], ["NOTIFY=NEVER"])
    assert refused == {}, refused

with connect() as client:
    client.login(user, password)
    # An address that is not ASCII: send_message then asks for SMTPUTF8.
    message = email.message.EmailMessage()
    message["From"] = sender
    message["To"] = recipient.replace("@", "-b\u00fccher@")
    message["Subject"] = "smtplib utf8"
    message.set_content("\u65e5\u672c\u8a9e\n")
    client.send_message(message)
    client.rset()
    try:
        client.sendmail("somebody-else@elsewhere.test", ["u@far.test"], "Subject: no\r\n\r\nno\r\n")
        raise AssertionError("relayed for a sender that is not the user's own")
    except smtplib.SMTPRecipientsRefused as error:
        (code, reply), = error.recipients.values()
        assert code == 550 and reply.startswith(b"5.7.1") and b"Relay access denied" in reply, error

with connect() as client:
    try:
        client.login(user, "not " + password)
        raise AssertionError("a wrong password was taken")
    except smtplib.SMTPAuthenticationError as error:
        assert error.smtp_code == 535, error
    client.ehlo_or_helo_if_needed()
    client.user, client.password = user, password
    client.auth("LOGIN", client.auth_login)
    assert client.sendmail(sender, [recipient], "Subject: smtplib login\r\n\r\nhello\r\n") == {}
