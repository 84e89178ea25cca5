"""What is said of places and errors, without the users, passwords and tokens in it."""

from __future__ import annotations

import re

from objectives.errors import in_a_line

#: What stands for a secret.
SECRET = "***"


def redacted(text: str) -> str:
    """Without the user and password that a URL may carry; a password may hold a slash, a quote, and even an @.

    Nor those of what was to be a URL: a scheme is often what is wrong with it.
    """
    text = re.sub(r"//\S*@", f"//{SECRET}@", text)
    return re.sub(r"(password|token)=[^&\s]*", rf"\1={SECRET}", text, flags=re.IGNORECASE)


def said(error: BaseException) -> str:
    """Its kind and first line."""
    return redacted(in_a_line(error))[:500]
