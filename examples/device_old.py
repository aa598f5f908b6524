#!/usr/bin/env python3
"""A device of the old kind: no SNI, no verification, TLS 1.2 at the most.

This is what ssl.wrap_socket(sock) did before Python 3.12 took it away, and what much firmware in
the field still does. It connects, says "Hello, server!", and prints up to 1024 bytes of answer.

It does not know who it talks to. Write new devices like device.py.
"""

import argparse
import socket
import ssl

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--host", default="127.0.0.1", help="where the sidecar listens")
parser.add_argument("--port", type=int, default=8883)
args = parser.parse_args()

context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
context.maximum_version = ssl.TLSVersion.TLSv1_2

sock = context.wrap_socket(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
sock.settimeout(10)
sock.connect((args.host, args.port))
print(f"{sock.version()}, {sock.cipher()[0]}")
sock.sendall(b"Hello, server!")
print(sock.recv(1024).decode())
sock.close()
