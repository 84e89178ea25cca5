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
    except UnicodeError:  # a part of it is empty, or has over 63 characters
        raise _refused(host, port, "no machine can have that name") from None
    except OSError as error:
        for listener in listeners:
            listener.close()
        # The address follows, which is said here.
        raise _refused(host, port, (error.strerror or str(error)).partition(" (")[0]) from None
    return listeners


def _refused(host: str, port: int, reason: str) -> RequestError:
    return RequestError(f"cannot listen on {host} port {port} ({reason}): give another --host or --port")
