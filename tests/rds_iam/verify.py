#!/usr/bin/python3
"""Whether a token is one that RDS would take: run by PAM for each login, with the token on standard input and the role in PAM_USER.

What is known is in `known`, beside this file: the host with its port, then the keys that hold, one to a line: id, secret, session token or `-`.
"""

import calendar
import hashlib
import hmac
import os
import sys
import time
from pathlib import Path
from urllib.parse import unquote

HERE = Path(__file__).parent


def signature(secret: str, scope: list[str], text: str) -> str:
    key = b"AWS4" + secret.encode()
    for part in scope:
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()


def judge(token: str, user: str) -> str:
    """What is wrong with it, or nothing."""
    host, *known = (HERE / "known").read_text().splitlines()
    keys = {key: (secret, session) for key, secret, session in (line.split() for line in known)}
    address, _, query = token.partition("/?")
    pairs = [tuple(part.split("=", 1)) for part in query.split("&")]
    values = {name: unquote(value) for name, value in pairs}
    if address != host:
        return f"it is for {address}"
    if values["Action"] != "connect" or values["DBUser"] != user:
        return f"it is for {values['Action']} as {values['DBUser']}"
    key, *scope = values["X-Amz-Credential"].split("/")
    if scope[1:] != ["eu-central-1", "rds-db", "aws4_request"]:
        return f"it is for {scope}"
    if key not in keys:
        return f"nobody has the key {key}"
    secret, session = keys[key]
    if values.get("X-Amz-Security-Token", "-") != session:
        return "it has another session token"
    at = values["X-Amz-Date"]
    age = time.time() - calendar.timegm(time.strptime(at, "%Y%m%dT%H%M%SZ"))
    if not -300 < age < int(values["X-Amz-Expires"]) or values["X-Amz-Expires"] != "900":
        return f"it was made {age} s ago"
    canonical = "&".join("=".join(pair) for pair in sorted(pairs) if pair[0] != "X-Amz-Signature")
    nothing = hashlib.sha256(b"").hexdigest()
    request = f"GET\n/\n{canonical}\nhost:{host}\n\nhost\n{nothing}"
    text = "\n".join(["AWS4-HMAC-SHA256", at, "/".join(scope), hashlib.sha256(request.encode()).hexdigest()])
    return "" if values["X-Amz-Signature"] == signature(secret, scope, text) else "its signature does not fit"


wrong = judge(sys.stdin.read().strip("\0\n"), os.environ["PAM_USER"])
with open(HERE / "judged", "a") as judged:
    print(wrong or "good", file=judged)
sys.exit(1 if wrong else 0)
