#!/usr/bin/env python3
"""A device that verifies the sidecar's certificate, as new devices should.

It connects, sends "Hello, server!", and prints up to 1024 bytes of the answer.
"""

import argparse
import socket
import ssl

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--host", default="localhost", help="the sidecar's address")
parser.add_argument("--port", type=int, default=8883)
parser.add_argument("--ca", default="certs/dev/ca.crt", help="the CA that the device trusts")
parser.add_argument("--cert", help="the device's certificate, if the sidecar requires one")
parser.add_argument("--key", help="the key of --cert")
args = parser.parse_args()

context = ssl.create_default_context(cafile=args.ca)
if args.cert:
    context.load_cert_chain(args.cert, args.key)

with socket.create_connection((args.host, args.port), timeout=10) as tcp:
    with context.wrap_socket(tcp, server_hostname=args.host) as tls:
        print(f"{tls.version()}, {tls.cipher()[0]}")
        tls.sendall(b"Hello, server!")
        print(tls.recv(1024).decode())
