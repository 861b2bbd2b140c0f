"""Guests who stay, whatever happens to the node they are on, and count what they hear."""

import asyncio
import time

from stage import addresses, until
from websocket import Client, Closed, Refused

CLIENTS = 24
ROOM = "event:balanced"


class Guest:
    """A client that stays: it comes back at once when its socket ends, and keeps every offset that it is told."""

    def __init__(self, stage, source):
        self.stage, self.source = stage, source
        self.client, self.position, self.offsets = None, None, []
        self.told, self.closes, self.returned = [], [], []
        self.refusals = 0

    async def come(self):
        cookie = self.client.cookie if self.client else None
        client = await Client.guest(self.stage.port, self.source, cookie)
        joined = await client.ok({"op": "join", "room": ROOM, **({"since": self.position} if self.position else {})})
        assert joined["recovered"], f"{self.source} has missed something: {joined}"
        self.client = client
        self.offsets += [event["offset"] for event in joined["events"]]
        self.position = {"epoch": joined["epoch"], "offset": joined["offset"]}
        self.first = getattr(self, "first", joined["offset"])

    async def stay(self):
        while True:
            try:
                push = await self.client.push()
                if push["push"] == "event":
                    self.offsets.append(push["offset"])
                    self.position["offset"] = push["offset"]
                elif push["push"] == "goaway":
                    self.told.append(push["retry_ms"])
            except asyncio.TimeoutError:
                continue
            except Closed as closed:
                self.closes.append(closed.code)
                while True:
                    try:
                        await self.come()
                        break
                    except (Refused, Closed, OSError, asyncio.IncompleteReadError):
                        self.refusals += 1
                        await asyncio.sleep(0.02)
                self.returned.append(time.monotonic())

    def missed_nothing(self, last):
        assert self.offsets == list(range(self.first + 1, last + 1)), f"{self.source}: {self.offsets} up to {last}"


class Crowd:
    """Guests on both nodes, a publisher, and newcomers all the time, while something happens to a node."""

    def __init__(self, stage, prefix):
        self.stage, self.prefix, self.guests = stage, prefix, [Guest(stage, source) for source in addresses(prefix, CLIENTS)]
        self.refused, self.newcomers, self.published, self.done = [], 0, 0, False

    async def __aenter__(self):
        await asyncio.gather(*(guest.come() for guest in self.guests))
        self.staying = [asyncio.create_task(guest.stay()) for guest in self.guests]
        self.working = [asyncio.create_task(self.publish()), asyncio.create_task(self.knock())]
        return self

    async def __aexit__(self, kind, *_):
        self.done = True
        results = await asyncio.gather(*self.working, return_exceptions=True)
        if kind is None:
            last = self.guests[0].first + self.published

            async def caught_up():
                return all(guest.position["offset"] == last for guest in self.guests)

            try:
                await until("everyone has the last event", caught_up, 5)
            except AssertionError:
                behind = [task for task in self.staying if task.done()]
                for task in behind:
                    task.result()
        for task in self.staying:
            task.cancel()
        await asyncio.gather(*self.staying, return_exceptions=True)
        for guest in self.guests:
            guest.client.drop()
        if kind is None:
            for result in results:
                if isinstance(result, BaseException):
                    raise result
            for guest in self.guests:
                guest.missed_nothing(last)

    async def publish(self):
        """Through the node that stays."""
        while not self.done:
            await self.stage.api(1, "publish", {"room": ROOM, "event": "tick", "data": self.published})
            self.published += 1
            await asyncio.sleep(0.05)

    async def knock(self):
        """Newcomers without a cookie; each is answered by a node, or it is remembered when and why not."""
        sources = addresses(f"{self.prefix.rsplit('.', 1)[0]}.200", 100)
        while not self.done:
            began = time.monotonic()
            try:
                client = await Client.guest(self.stage.port, sources[self.newcomers % len(sources)])
                client.drop()
            except (Refused, Closed, OSError, asyncio.TimeoutError, asyncio.IncompleteReadError) as error:
                self.refused.append((began, repr(error)))
            self.newcomers += 1
            await asyncio.sleep(0.03)

    def on(self, node):
        return [guest for guest in self.guests if guest.client.node == node]
