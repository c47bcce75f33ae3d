#!/usr/bin/env python3
"""Reads a message on standard input as Python's email package does, checks that it is a well-formed delivery status notification
(RFC 3464), and prints what it says as JSON: {"headers": {...}, "message": {...}, "recipients": [{...}], "returned": "type/subtype"}.
"""

import email
import email.policy
import json
import sys

message = email.message_from_binary_file(sys.stdin.buffer, policy=email.policy.default)
for part in message.walk():
    assert not part.defects, (part.get_content_type(), part.defects)
assert message.get_content_type() == "multipart/report", message.get_content_type()
assert message.get_param("report-type") == "delivery-status", message["Content-Type"]
parts = list(message.iter_parts())
assert 2 <= len(parts) <= 3, [part.get_content_type() for part in parts]
assert parts[0].get_content_type() == "text/plain" and parts[0].get_content().strip()
assert parts[1].get_content_type() == "message/delivery-status", parts[1].get_content_type()
groups = [dict(group.items()) for group in parts[1].get_payload() if group.keys()]
assert "Reporting-MTA" in groups[0], groups
for group in groups[1:]:
    for field in ("Final-Recipient", "Action", "Status"):
        assert field in group, (field, group)
json.dump(
    {
        "headers": dict(message.items()),
        "message": groups[0],
        "recipients": groups[1:],
        "returned": parts[2].get_content_type() if len(parts) == 3 else None,
    },
    sys.stdout,
)
