"""Tells a webhook how a night ended, in the JSON that Slack and its like read. The URL is a secret."""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from http.client import HTTPException

PAUSES_S = (1.0, 4.0, 16.0, 64.0)


def notify(target: str, text: str, pauses_s: tuple[float, ...] = PAUSES_S) -> bool:
    """Post `text` to a URL, or to the one that ``env:NAME`` names; whether it was taken, at last after all pauses.

    What goes wrong is said on standard error, without the URL.
    """
    url = os.environ.get(target[4:], "") if target.startswith("env:") else target
    reason = ""
    for pause in (*pauses_s, None):
        try:
            body = json.dumps({"text": text}).encode()
            request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=10):
                return True
        except (OSError, ValueError, HTTPException) as error:
            reason = f"{type(error).__name__} {getattr(error, 'code', '')}".strip()
        if pause is not None:
            time.sleep(pause)
    print(f"a notification was not delivered ({reason}): check --notify of the schedule", file=sys.stderr)
    return False


def shown(target: str) -> str:
    """For people: the name of a variable is no secret, a URL is."""
    return target if target.startswith("env:") else "***"
