# SPDX-License-Identifier: MIT
"""Servers of the host that guests are to reach."""
import contextlib
import http.server
import socket
import threading


@contextlib.contextmanager
def web_server(handler, address="127.0.0.1"):
    """One of `handler`, a BaseHTTPRequestHandler, while the context lasts. Its port."""
    class Server(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET

    server = Server((address, 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def free_port():
    """A port of TCP that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]
