"""Sockets that wait for clients."""

from __future__ import annotations

import errno
import socket

from objectives.errors import RequestError

_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def listening(host: str, port: int) -> list[socket.socket]:
    """On every address that the name has here: in a container `localhost` often has one of IPv6, which is turned off.

    Raises RequestError.
    """
    listeners: list[socket.socket] = []
    absent: OSError | None = None
    try:
        for family, *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE):
            try:
                listeners.append(socket.create_server(address[:2], family=family))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                absent = error
        if absent is not None and not listeners:
            raise absent
    except OSError as error:
        for listener in listeners:
            listener.close()
        reason = (error.strerror or str(error)).partition(" (")[0]  # the address follows, which is said here
        raise RequestError(f"cannot listen on {host} port {port} ({reason}): give another --host or --port") from None
    return listeners
