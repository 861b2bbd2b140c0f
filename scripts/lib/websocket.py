"""As much of a WebSocket client as a test of a balancer needs, from nothing but the standard library: the handshake
with headers of the caller's choice, text frames both ways, pong, and the code of the close."""

import asyncio
import base64
import ipaddress
import json
import os
import struct


class Refused(Exception):
    """The upgrade was answered with another status than 101."""

    def __init__(self, status, headers):
        super().__init__(f"answered {status} instead of an upgrade")
        self.status, self.headers = status, headers


class Closed(Exception):
    """The socket has ended: with a code, or (None) without a word."""

    def __init__(self, code):
        super().__init__(f"closed with {code}")
        self.code = code


def proxy_v2(source):
    """What a balancer with the PROXY protocol (version 2) says first: the connection comes from this address."""
    address = ipaddress.ip_address(source)
    addresses = address.packed * 2 + struct.pack(">HH", 40000, 80)
    family = 0x11 if address.version == 4 else 0x21
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack(">BBH", 0x21, family, len(addresses)) + addresses


async def request(port, path, source="127.0.0.1", headers=(), method="GET", body=b"", timeout=5, first=b""):
    """One HTTP/1.1 request as it stands, on a connection of its own: (status, headers, reader, writer). Who comes
    from an address of IPv6 goes to one; `first` is sent before everything else."""
    to = "::1" if ":" in source else "127.0.0.1"

    async def ask():
        reader, writer = await asyncio.open_connection(to, port, local_addr=(source, 0))
        try:
            writer.write(first)
            lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", *(f"{k}: {v}" for k, v in headers)]
            if body:
                lines.append(f"Content-Length: {len(body)}")
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except BaseException:
            writer.transport.abort()
            raise
        status = int(head[0].split(" ")[1])
        answered = [tuple(line.split(": ", 1)) for line in head[1:] if ": " in line]
        return status, [(name.lower(), value) for name, value in answered], reader, writer

    return await asyncio.wait_for(ask(), timeout)


async def status_of(port, path, source="127.0.0.1", **how):
    status, _, _, writer = await request(port, path, source, **how)
    writer.transport.abort()
    return status


class Client:
    """One socket. `node` is who answered, `cookie` what the balancer wants to see again."""

    def __init__(self, reader, writer, cookie):
        self.reader, self.writer, self.cookie = reader, writer, cookie
        self.next_id, self.pushes, self.node = 1, [], None

    @classmethod
    async def open(cls, port, source, cookie=None, headers=(), path="/ws", first=b""):
        key = base64.b64encode(os.urandom(16)).decode()
        upgrade = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", key),
            *([("Cookie", cookie)] if cookie else []),
            *headers,
        ]
        status, answered, reader, writer = await request(port, path, source, upgrade, first=first)
        if status != 101:
            writer.transport.abort()
            raise Refused(status, dict(answered))
        fresh = [value.split(";")[0] for name, value in answered if name == "set-cookie"]
        return cls(reader, writer, fresh[0] if fresh else cookie)

    @classmethod
    async def guest(cls, port, source, cookie=None, headers=(), first=b""):
        """Open and connected: a socket that a node, and not only the balancer, has answered on."""
        client = await cls.open(port, source, cookie, headers, first=first)
        try:
            client.node = (await client.ok({"op": "connect"}))["node"]
        except BaseException:
            client.drop()
            raise
        return client

    def drop(self):
        self.writer.transport.abort()

    def send(self, opcode, payload):
        mask = os.urandom(4)
        masked = bytes(b ^ mask[i % 4] for i, b in enumerate(payload))
        length = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + struct.pack(">H", len(payload))
        self.writer.write(bytes([0x80 | opcode]) + length + mask + masked)

    async def frame(self, timeout=10):
        """The next JSON object."""
        while True:
            try:
                opcode, payload = await asyncio.wait_for(self.read(), timeout)
            except (asyncio.IncompleteReadError, ConnectionError):
                raise Closed(None) from None
            if opcode == 1:
                return json.loads(payload)
            if opcode == 8:
                raise Closed(struct.unpack(">H", payload[:2])[0] if len(payload) >= 2 else 1005)
            if opcode == 9:
                self.send(10, payload)

    async def read(self):
        first, second = await self.reader.readexactly(2)
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", await self.reader.readexactly(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", await self.reader.readexactly(8))
        return first & 0x0F, await self.reader.readexactly(length)

    async def ok(self, frame):
        """Sends an operation and returns its `ok`; pushes that come before it are kept."""
        number, self.next_id = self.next_id, self.next_id + 1
        self.send(1, json.dumps({"id": number, **frame}).encode())
        while True:
            answer = await self.frame()
            if answer.get("id") == number:
                if "ok" not in answer:
                    raise AssertionError(f"{frame} was answered {answer}")
                return answer["ok"]
            self.pushes.append(answer)

    async def push(self):
        return self.pushes.pop(0) if self.pushes else await self.frame()
