"""Tells a webhook how a night ended, in the JSON that Slack and its like read. The URL is a secret."""

from __future__ import annotations

import json
import os
import re
import sys
import time
import urllib.request
from base64 import b64encode
from http.client import HTTPException, InvalidURL
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, unquote_to_bytes, urlsplit

PAUSES_S = (1.0, 4.0, 16.0, 64.0)
_NO_URL = "what --notify of the schedule gives is no http or https URL: correct it"


class _StayHere(urllib.request.HTTPRedirectHandler):
    """urllib would follow with a GET, which has no text, and take that for an answer."""

    def redirect_request(self, *_: Any) -> None:
        return None


_open = urllib.request.build_opener(_StayHere).open


def notify(target: str, text: str, pauses_s: tuple[float, ...] = PAUSES_S) -> bool:
    """Post `text` to a URL, or to the one that ``env:NAME`` names; whether it was taken, at last after all pauses.

    What goes wrong is said on standard error, without the URL. A refusal that will not change is not tried again.
    """
    url = os.environ.get(target[4:], "") if target.startswith("env:") else target
    if not url:
        return _not_delivered(f"{target[4:]} is not set where the daemon runs: set it")
    if not url.lower().startswith(("http://", "https://")):  # urllib would read a file, and call that delivered
        return _not_delivered(_NO_URL)
    body = json.dumps({"text": text}).encode()
    for pause in (*pauses_s, None):
        try:
            address, credentials = _apart(url)
            request = urllib.request.Request(address, body, {"Content-Type": "application/json"} | credentials)
            with _open(request, timeout=10):
                return True
        except HTTPError as error:
            reason = f"the server answered {error.code}"
            if 300 <= error.code < 400:
                return _not_delivered(f"{reason}, a redirect: give --notify of the schedule the URL that it leads to")
            if error.code < 500 and error.code != 429:
                return _not_delivered(f"{reason}: check --notify of the schedule")
        except (ValueError, InvalidURL):
            return _not_delivered(_NO_URL)
        except (OSError, HTTPException) as error:
            # The class alone, of what is behind urllib's URLError: a message may repeat parts of the URL.
            cause = getattr(error, "reason", None)
            reason = type(cause if isinstance(cause, OSError) else error).__name__
        if pause is not None:
            time.sleep(pause)
    return _not_delivered(f"{reason}, {len(pauses_s) + 1} times: check --notify of the schedule, and that server")


def _apart(url: str) -> tuple[str, dict[str, str]]:
    """The URL in ASCII, without user and password, which urllib takes for a part of the host's name, and the header for
    them.

    Raises ValueError for a host that cannot be written in ASCII, as an international name is by its IDNA form.
    """
    server = urlsplit(url).netloc
    given, at, host = server.rpartition("@")
    if not host.isascii():
        name, colon, port = host.partition(":")
        host = f"{name.encode('idna').decode()}{colon}{port}"
    scheme, slashes, rest = url.partition("//")  # not by urlsplit, which drops line breaks
    address = f"{scheme}{slashes}{host}{rest.removeprefix(server)}"
    address = re.sub(r"[^\x00-\x7f]+", lambda letters: quote(letters[0], errors="surrogateescape"), address)
    if not at:
        return address, {}
    credentials = unquote_to_bytes(given.encode("utf-8", "surrogateescape"))
    return address, {"Authorization": f"Basic {b64encode(credentials).decode()}"}


def _not_delivered(why: str) -> bool:
    print(f"a notification was not delivered: {why}", file=sys.stderr, flush=True)
    return False


def shown(target: str) -> str:
    """For people: the name of a variable is no secret, a URL is."""
    return target if target.startswith("env:") else "***"
