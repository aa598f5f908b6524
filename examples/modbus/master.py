#!/usr/bin/env python3
"""The device: a Modbus master with TLS and a client certificate (Modbus/TCP Security).

It reads the temperature and the set point, raises the set point by one degree, and reads it again.
"""

import argparse
import asyncio
import ssl
import sys

from pymodbus.client import AsyncModbusTlsClient

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--host", default="localhost", help="the sidecar's address")
parser.add_argument("--port", type=int, default=8802)
parser.add_argument("--ca", default="certs/ca.crt", help="the CA that the master trusts")
parser.add_argument("--cert", help="the master's certificate")
parser.add_argument("--key", help="the key of --cert")
args = parser.parse_args()

# This context verifies at least as much as pymodbus's default context, and trusts only this CA.
context = ssl.create_default_context(cafile=args.ca)
if args.cert:
    context.load_cert_chain(args.cert, args.key)


async def main():
    client = AsyncModbusTlsClient(
        args.host, port=args.port, sslctx=context, timeout=5, retries=0, reconnect_delay=0
    )
    if not await client.connect():
        sys.exit("no connection")
    try:
        answer = await client.read_holding_registers(0, count=2, device_id=1)
        temperature, set_point = answer.registers
        print(f"temperature {temperature / 10} degrees, set point {set_point / 10}")
        await client.write_register(1, set_point + 10, device_id=1)
        answer = await client.read_holding_registers(1, count=1, device_id=1)
        print(f"set point {answer.registers[0] / 10} degrees")
    finally:
        client.close()


asyncio.run(main())
