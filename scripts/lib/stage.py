"""One Redis, two nodes and a balancer with a file of deploy/, started for a test and ended with it."""

import asyncio
import json
import os
import random
import secrets
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path

from websocket import Client, Closed, Refused, proxy_v2, request, status_of

ROOT = Path(__file__).resolve().parent.parent.parent
PATH = os.environ["PATH"] + ":/usr/local/sbin:/usr/sbin:/sbin"
CAP = 3
# What one address may hold open at HAProxy, asked for or not.
PER_ADDRESS = 30
# Where the balancer before the balancer stands, where a test has one.
OUTER = "127.7.0.1"


def has_ipv6():
    """A container often has none, not even a loopback."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
        return True
    except OSError:
        return False


HAS_IPV6 = has_ipv6()


def free_ports(count):
    """Below the range of outgoing connections, so that no client of a test takes one before its server binds."""
    ports = set()
    while len(ports) < count:
        port = random.randrange(15000, 32000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                ports.add(port)
    return sorted(ports)


async def until(what, check, seconds=10):
    """Waits until the check holds; a refused connection is as good as a no."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if await check():
                return
        except (OSError, Refused, Closed, asyncio.TimeoutError, asyncio.IncompleteReadError):
            pass
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds} s")
        await asyncio.sleep(0.05)


def addresses(prefix, count):
    return [f"{prefix}.{i}" for i in range(1, count + 1)]


async def soon(connect):
    """Connects, and for two seconds takes 429 for `not yet`."""
    deadline = time.monotonic() + 2
    while True:
        try:
            return await connect()
        except Refused as refused:
            if refused.status != 429 or time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)


async def truth(value):
    return value


class Relay:
    """The only way from one node to Redis, so that this node alone can lose it."""

    def __init__(self, to):
        self.to, self.port, self.server, self.writers = to, free_ports(1)[0], None, set()

    async def join(self):
        self.server = await asyncio.start_server(self.carry, "127.0.0.1", self.port)

    def cut(self):
        self.server.close()
        for writer in self.writers:
            writer.transport.abort()

    async def carry(self, reader, writer):
        async def pump(source, sink):
            try:
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
            except OSError:
                pass
            sink.transport.abort()

        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.to)
        except OSError:
            return writer.transport.abort()
        self.writers |= {writer, far_writer}
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
        self.writers -= {writer, far_writer}


class Stage:
    """One Redis, two nodes, one balancer, in one directory; all of it ends with the `async with`."""

    def __init__(self, balancer, binary, behind_another=False):
        """`behind_another`: it stands behind another balancer, which tells it by the PROXY protocol who the client is."""
        self.balancer, self.binary, self.behind_another = balancer, binary, behind_another
        self.dir = Path(tempfile.mkdtemp(prefix=f"roomcast-{balancer}."))
        self.redis_port, self.port, *ports = free_ports(6)
        self.node_ports, self.check_ports = ports[:2], ports[2:]
        # HAProxy hands on by the same protocol, which the internal listener does not speak; everywhere else one port
        # serves both, so that only the balancer stands between clients and the API.
        self.speaks_on = behind_another and balancer == "haproxy"
        if not self.speaks_on:
            self.check_ports = self.node_ports
        self.relay = Relay(self.redis_port)
        self.api_key = secrets.token_hex(32)
        self.processes, self.states, self.managers = {}, {}, []

    async def __aenter__(self):
        try:
            redis = ["redis-server", "--bind", "127.0.0.1", "--port", str(self.redis_port), "--save", "", "--dir"]
            await self.launch("redis", [*redis, str(self.dir)])
            await until("Redis listens", lambda: self.listens(self.redis_port))
            await self.relay.join()
            await asyncio.gather(self.start_node(0), self.start_node(1))
            await getattr(self, f"start_{self.balancer}")()
            await until(f"{self.balancer} finds both nodes", self.reaches_both)
        except BaseException:
            await self.__aexit__(*sys.exc_info())
            raise
        return self

    async def __aexit__(self, kind, *_):
        for name, process in reversed(self.processes.items()):
            if process.returncode is None:
                # Nobody is left to drain for.
                process.kill() if name.startswith("node") else process.terminate()
                try:
                    await asyncio.wait_for(process.wait(), 5)
                except asyncio.TimeoutError:
                    process.kill()
        if kind is not None and kind is not asyncio.CancelledError:
            for log in sorted(self.dir.glob("*.log")):
                print(f"--- {self.balancer}: {log.name}", *log.read_text().splitlines()[-15:], sep="\n", file=sys.stderr)
        self.relay.cut()
        for manager in self.managers:
            asyncio.get_running_loop().remove_reader(manager)
            manager.close()
        shutil.rmtree(self.dir, ignore_errors=True)

    async def launch(self, name, command, env=None):
        with open(self.dir / f"{name}.log", "ab") as log:
            self.processes[name] = await asyncio.create_subprocess_exec(
                *command, env={"PATH": PATH, **(env or {})}, cwd=self.dir, stdin=asyncio.subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        return self.processes[name]

    async def listens(self, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.transport.abort()
        return True

    async def start_node(self, index):
        """Starts a node and waits for READY=1, as a service manager does."""
        name, port = f"node{index + 1}", self.node_ports[index]
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = self.dir / f"{name}-{secrets.token_hex(4)}.notify"
        manager.bind(str(path))
        manager.setblocking(False)
        self.listen_to(name, manager)
        settings = {
            "NODE": name,
            "LISTEN": f"127.0.0.1:{port}",
            "INTERNAL__LISTEN": f"127.0.0.1:{self.check_ports[index]}",
            "WORKERS": "1",
            "REDIS__URL": f"redis://127.0.0.1:{self.redis_port if index else self.relay.port}",
            "REDIS__READY_GRACE": "500ms",
            "AUTH__HMAC_KEY": "a key for no longer than this test lasts",
            "API__KEY": self.api_key,
            "TRUSTED_PROXIES": "127.0.0.1/32",
            "PROXY_PROTOCOL": str(self.speaks_on).lower(),
            # Longer than any timeout of a balancer that is not for upgraded connections: see a_quiet_socket_stays.
            "LIMITS__PING_INTERVAL": "45s",
            "LIMITS__CONNECTIONS_PER_IP": str(CAP),
            "LIMITS__CONNECT_RATE_PER_IP": "1000",
            "LIMITS__CONNECT_BURST_PER_IP": "1000",
            "DRAIN__BALANCER_DELAY": "1s",
            "DRAIN__SPREAD": "1s",
            "DRAIN__DEADLINE": "8s",
        }
        env = {f"ROOMCAST_{key}": value for key, value in settings.items()}
        watched = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "900000"}
        await self.launch(name, [self.binary, "serve"], {**env, **watched})
        await self.told(name, "READY=1")
        assert await status_of(self.check_ports[index], "/readyz") == 200, f"{name} says READY=1 before it is ready"
        for _ in range(3):
            await self.told(name, "WATCHDOG=1", 0.9)

    def listen_to(self, name, manager):
        """Takes what a node says as a service manager does, at once: else its queue is full some day."""
        heard = self.states[name] = []
        loop = asyncio.get_running_loop()
        loop.add_reader(manager, lambda: heard.extend(manager.recv(256).decode().split("\n")))
        self.managers.append(manager)

    async def told(self, name, word, seconds=10):
        """The node has told its service manager so, since this was asked last."""

        async def heard():
            if word in self.states[name]:
                self.states[name].remove(word)
                return True
            process = self.processes[name]
            assert process.returncode is None, f"{name} ended with {process.returncode} before {word}"
            return False

        await until(f"{name} says {word}", heard, seconds)

    async def start_haproxy(self):
        bind = f"127.0.0.1:{self.port}" + (f",[::1]:{self.port}" if HAS_IPV6 else "")
        env = {"BALANCER_BIND": bind, "BALANCER_MAXCONN": "2000", "BALANCER_PER_ADDRESS": str(PER_ADDRESS)}
        for index, (port, check) in enumerate(zip(self.node_ports, self.check_ports), 1):
            env |= {f"BALANCER_NODE{index}": f"127.0.0.1:{port}", f"BALANCER_NODE{index}_CHECK_PORT": str(check)}
        if self.behind_another:
            env |= {"BALANCER_PROXY_FROM": f"192.0.2.0/24 {OUTER}", "BALANCER_SEND_PROXY": "yes"}
        await self.launch("haproxy", ["haproxy", "-db", "-f", str(ROOT / "deploy/haproxy.cfg")], env)

    async def start_nginx(self):
        """The file as it is, beside the two that say what is where here."""
        shutil.copy(ROOT / "deploy/nginx.conf", self.dir)
        (self.dir / "nginx/conf.d").mkdir(parents=True)
        policy = (ROOT / "deploy/nginx/nodes.conf").read_text().split(":8080 ", 1)[1].split(";")[0]
        nodes = [f"server 127.0.0.1:{port} {policy};\n" for port in self.node_ports]
        (self.dir / "nginx/nodes.conf").write_text("".join(nodes))
        listen = (ROOT / "deploy/nginx/listen.conf").read_text()
        for public, here in [("listen 8080", "listen 127.0.0.1"), ("listen [::]:8080", "listen [::1]")]:
            assert listen.count(public) == 1
            if "::1" in here and not HAS_IPV6:
                here = "# " + here
            listen = listen.replace(public, f"{here}:{self.port}" + (" proxy_protocol" if self.behind_another else ""))
        if self.behind_another:
            listen += f"set_real_ip_from {OUTER};\nreal_ip_header proxy_protocol;\n"
        (self.dir / "nginx/listen.conf").write_text(listen)
        # Debian's own directories for these belong to root.
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        (self.dir / "nginx/conf.d/temp.conf").write_text("".join(f"{k}_temp_path {self.dir}/{k};\n" for k in kinds))
        own = f"daemon off; pid {self.dir}/nginx.pid;"
        await self.launch("nginx", ["nginx", "-p", str(self.dir), "-c", str(self.dir / "nginx.conf"), "-g", own])

    async def reaches_both(self):
        """New clients without a cookie come to either node."""
        reached = set()
        for source in addresses("127.8.0", 12):
            outer = {"source": OUTER, "first": proxy_v2(source)} if self.behind_another else {"source": source}
            client = await Client.guest(self.port, **outer)
            reached.add(client.node)
            client.drop()
        return reached == {"node1", "node2"}

    async def api(self, node, path, body):
        headers = [("Authorization", f"Bearer {self.api_key}"), ("Connection", "close")]
        status, _, reader, writer = await request(
            self.check_ports[node], f"/api/v1/{path}", headers=headers, method="POST", body=json.dumps(body).encode()
        )
        answer = await reader.read()
        writer.transport.abort()
        assert status == 200, f"{path}: {status} {answer}"

    async def settled(self, node):
        """Whether a node has had its Redis for a second at least."""
        _, _, reader, writer = await request(self.check_ports[node], "/readyz?verbose", headers=[("Connection", "close")])
        broker = json.loads(await reader.read())["checks"]["broker"]
        writer.transport.abort()
        return broker["usable"] and broker["for_ms"] > 1_000

    async def metric(self, node, series):
        """The value of one series of a node."""
        _, _, reader, writer = await request(self.check_ports[node], "/metrics", headers=[("Connection", "close")])
        text = (await reader.read()).decode()
        writer.transport.abort()
        return float(next(line for line in text.splitlines() if line.startswith(series + " ")).split()[1])
