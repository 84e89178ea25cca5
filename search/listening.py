"""Sockets of a server's address, or a sentence why there can be none."""

from __future__ import annotations

import socket

from objectives.errors import RequestError


def listeners_at(host: str, port: int) -> list[socket.socket]:
    """On every address that the name has. Raises RequestError."""
    listeners: list[socket.socket] = []
    try:
        for family, *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE):
            listeners.append(socket.create_server(address[:2], family=family))
    except OSError as error:
        for listener in listeners:
            listener.close()
        reason = (error.strerror or str(error)).partition(" (")[0]  # the address follows, which is said here
        raise RequestError(f"cannot listen on {host} port {port} ({reason}): give another --host or --port") from None
    return listeners
