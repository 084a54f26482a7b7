"""Ports of this machine: probes them, and says which process uses one."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import psutil


def busy(port: int) -> bool:
    """Return whether something listens on a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False


def owner(port: int) -> str:
    """Return the process that listens on a port, as text, if this user may see it."""
    with contextlib.suppress(psutil.AccessDenied):
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                if connection.pid is None:
                    break
                with contextlib.suppress(psutil.Error):
                    process = psutil.Process(connection.pid)
                    return f"pid {process.pid}: {' '.join(process.cmdline())[:100]}"
    return "a process of another user"


async def open_port(port: int) -> bool:
    """Return whether a port accepts connections."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def http_ok(port: int, path: str) -> bool:
    """Return whether a GET is answered with 2xx within two seconds."""
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
                writer.write(request.encode())
                status = (await reader.readline()).split()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
    return len(status) > 1 and status[1].startswith(b"2")
