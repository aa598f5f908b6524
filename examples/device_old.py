#!/usr/bin/env python3
"""An old device: no SNI, no verification, at most TLS 1.2.

ssl.wrap_socket(sock) behaved like this before Python 3.12 removed it, and much firmware in the field
still does. It connects, sends "Hello, server!", and prints up to 1024 bytes of the answer.

It does not authenticate the server. Write new devices like device.py.
"""

import argparse
import socket
import ssl

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--host", default="127.0.0.1", help="the sidecar's address")
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
