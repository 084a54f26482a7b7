"""Free ports of this machine, none of which another process is given too."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator

# Below the range from which Linux and macOS choose the local ports of outgoing connections: no such
# connection can take a port after it has been given out and before the server listens on it.
_PORTS = range(26_000, 32_752)
_BLOCK = 32


def free_port() -> int:
    """Return a port that nothing listens on and that no other process gets from here while this one runs."""
    for port in itertools.islice(_own_ports, len(_PORTS)):
        with socket.socket() as probe:
            if _listens(probe, port):
                return port
    raise OSError(f"no port from {_PORTS.start} to {_PORTS.stop - 1} is free")


def _claimed_ports() -> Iterator[int]:
    """Claim block after block, and yield its ports; begin again with the claimed ones when none is left.

    A process claims a block by listening on its first port, until the process ends. So a server that is slow
    to listen keeps its port, and what answers there is not the server of another test run.
    """
    blocks = [range(start, start + _BLOCK) for start in _PORTS[::_BLOCK]]
    first = os.getpid() % len(blocks)
    claims, claimed = list[socket.socket](), list[int]()
    for block in blocks[first:] + blocks[:first]:
        claim = socket.socket()
        if not _listens(claim, block[0]):
            claim.close()
            continue
        claims.append(claim)
        claimed += block[1:]
        yield from block[1:]
    yield from itertools.cycle(claimed)


def _listens(server: socket.socket, port: int) -> bool:
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind(("127.0.0.1", port))
        server.listen()
    except OSError:
        return False
    return True


_own_ports = _claimed_ports()
