#!/usr/bin/env python3
"""A fleet of devices for docs/fleet-life.md, and the legacy server behind the sidecar.

`server` echoes on plain TCP. `devices` connects one device for each certificate NAME.crt with its key NAME.key in a
directory. Each device sends a numbered reading every second and expects the same bytes back. It reconnects when its
certificate is replaced. Ctrl-C ends the fleet: each device waits for its last echo, and a summary is printed.
"""

import argparse
import asyncio
import asyncio.sslproto
import os
import pathlib
import resource
import signal
import ssl
import time

# Handshakes at a time.
CONNECTING = 20

# Seconds to wait for an echo.
PATIENCE = 30

# asyncio would reserve 256 KiB for each device.
asyncio.sslproto.SSLProtocol.max_size = 1 << 14


class Left(Exception):
    """A device's connection has ended."""


class Fleet:
    def __init__(self, args):
        self.args = args
        self.connecting = asyncio.Semaphore(CONNECTING)
        self.ending = asyncio.Event()
        self.wanted = 0
        self.online = 0
        self.echoed = 0
        self.left = []

    async def run(self):
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.ending.set)
        certificates = sorted(pathlib.Path(self.args.certs).glob("*.crt"))
        self.wanted = len(certificates)
        devices = [asyncio.create_task(self.live(path)) for path in certificates]
        reports = asyncio.create_task(self.report())
        await asyncio.gather(*devices)
        reports.cancel()
        names = ", ".join(self.left) or "none"
        print(f"{self.stay()} devices stayed and got every byte back, {len(self.left)} left: {names}", flush=True)

    def stay(self):
        return self.wanted - len(self.left)

    async def report(self):
        """Prints the number of devices when all are connected, and every ten seconds."""
        while self.online < self.wanted and not self.left:
            await asyncio.sleep(0.1)
        while True:
            print(f"{self.online} devices are connected, {self.echoed} bytes came back", flush=True)
            await asyncio.sleep(10)

    async def live(self, path):
        """The life of a device: until the fleet ends, or its connection does."""
        try:
            while not self.ending.is_set():
                await self.connection(path)
        except (Left, OSError, asyncio.TimeoutError) as error:
            self.left.append(path.stem)
            after = ""
            if self.args.crl:
                seconds = time.time() - os.stat(self.args.crl).st_mtime
                after = f" {seconds:.2f} s after {self.args.crl} changed"
            print(f"{path.stem} left{after}, {self.stay()} stay: {error or repr(error)}", flush=True)

    async def connection(self, path):
        """Sends readings until the certificate is replaced or the fleet ends."""
        loaded = path.stat().st_mtime_ns
        async with self.connecting:
            reader, writer = await asyncio.wait_for(self.connect(path), PATIENCE)
            if self.ending.is_set():
                return writer.close()
            self.online += 1
        try:
            await self.send(path, loaded, reader, writer)
        finally:
            self.online -= 1
            writer.close()

    async def connect(self, path):
        context = ssl.create_default_context(cafile=self.args.ca)
        context.load_cert_chain(path, path.with_suffix(".key"))
        host, port = self.args.host, self.args.port
        return await asyncio.open_connection(host, port, ssl=context, server_hostname=host)

    async def send(self, path, loaded, reader, writer):
        answer, number = asyncio.ensure_future(reader.readline()), 0
        ending = asyncio.ensure_future(self.ending.wait())
        try:
            while not self.ending.is_set():
                number += 1
                reading = f"{path.stem} {number}\n".encode()
                writer.write(reading)
                echo = await asyncio.wait_for(asyncio.shield(answer), PATIENCE)
                if echo != reading:
                    raise Left(f"{echo!r} instead of {reading!r}" if echo else "end of stream")
                self.echoed += len(echo)
                # The end of the stream is noticed at once.
                answer = asyncio.ensure_future(reader.readline())
                await asyncio.wait((answer, ending), timeout=1, return_when=asyncio.FIRST_COMPLETED)
                if answer.done():
                    raise Left(f"{answer.result()!r}" if answer.result() else "end of stream")
                if path.stat().st_mtime_ns != loaded:
                    print(f"{path.stem} reconnects with its new certificate", flush=True)
                    return
        finally:
            answer.cancel()
            ending.cancel()


async def serve(args):
    async def echo(reader, writer):
        try:
            while data := await reader.read(4096):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", args.port, backlog=1024)
    print(f"legacy server on 127.0.0.1:{args.port}", flush=True)
    await server.serve_forever()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    server = commands.add_parser("server", help="the legacy server")
    server.add_argument("--port", type=int, default=1883)
    server.set_defaults(run=serve)
    devices = commands.add_parser("devices", help="the devices")
    devices.add_argument("--host", default="localhost", help="the sidecar's address")
    devices.add_argument("--port", type=int, default=8883)
    devices.add_argument("--ca", required=True, help="the CA that the devices trust")
    devices.add_argument("--certs", required=True, help="the directory of their certificates")
    devices.add_argument("--crl", help="a file, whose last change is compared with the time at which a device leaves")
    devices.set_defaults(run=lambda args: Fleet(args).run())
    args = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        asyncio.run(args.run(args))
    except KeyboardInterrupt:
        pass


main()
