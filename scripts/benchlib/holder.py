"""Kept connections that have been served once and are idle."""

import socket

from .say import Failed
from .world import SMALL


class Holder:
    """So many of them, opened one after another; closed at the end of `with`."""

    def __init__(self, server, count):
        self.server, self.count, self.held = server, count, []

    def __enter__(self):
        request = f"GET {SMALL} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
        try:
            for _ in range(self.count):
                client = socket.create_connection(("127.0.0.1", self.server.port), timeout=20)
                self.held.append(client)
                client.sendall(request)
                self.read_reply(client)
        except OSError as error:
            self.__exit__()
            raise Failed(f"{self.server.name} holds {len(self.held)} connections, not {self.count}: {error}") from error
        return self

    def read_reply(self, client):
        reply = b""
        while True:
            head, is_whole, body = reply.partition(b"\r\n\r\n")
            if is_whole and len(body) == 1024:
                break
            more = client.recv(65536)
            if not more:
                raise ConnectionError("closed")
            reply += more
        if not head.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(head[:40])

    def __exit__(self, *_):
        for client in self.held:
            client.close()
