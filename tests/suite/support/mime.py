"""Shows the mail on standard input as JSON, as Python's own parser understands it."""

import email
import email.policy
import json
import sys


def show(part):
    shown = {
        "type": part.get_content_type(),
        "parameters": dict(part["content-type"].params) if part["content-type"] else {},
        "headers": [[name, str(value)] for name, value in part.items()],
        "defects": [str(defect) for defect in part.defects],
        "file": part.get_filename(),
        "disposition": part.get_content_disposition(),
    }
    if part.is_multipart():
        shown["parts"] = [show(inner) for inner in part.iter_parts()]
    else:
        content = part.get_payload(decode=True)
        shown["content"] = content.decode("utf-8")
    return shown


json.dump(show(email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.default)), sys.stdout)
