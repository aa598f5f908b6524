#!/usr/bin/env python3
"""A device on paho-mqtt: it publishes a temperature and receives a command.

It subscribes to its commands, publishes a reading and a command to itself, prints the command that it
receives, and exits.
"""

import argparse
import ssl
import sys

import paho.mqtt.client as mqtt

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--host", default="localhost", help="the sidecar's address")
parser.add_argument("--port", type=int, default=8883)
parser.add_argument("--ca", default="certs/ca.crt", help="the CA that the device trusts")
parser.add_argument("--cert", help="the device's certificate")
parser.add_argument("--key", help="the key of --cert")
args = parser.parse_args()


def connected(client, _data, _flags, reason, _properties):
    if reason.is_failure:
        sys.exit(f"the broker refused the connection: {reason}")
    client.subscribe("plant/device-1/command", qos=1)


def subscribed(client, _data, _message, _reasons, _properties):
    client.publish("plant/device-1/temperature", "21.5", qos=1, retain=True)
    client.publish("plant/device-1/command", "blink", qos=1)


def received(client, _data, message):
    print(f"{message.topic}: {message.payload.decode()}")
    client.disconnect()


def disconnected(_client, _data, _flags, reason, _properties):
    if reason.is_failure:
        sys.exit(f"the connection ended: {reason}")


context = ssl.create_default_context(cafile=args.ca)
if args.cert:
    context.load_cert_chain(args.cert, args.key)
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="device-1")
client.on_connect = connected
client.on_subscribe = subscribed
client.on_message = received
client.on_disconnect = disconnected
client.tls_set_context(context)
client.connect(args.host, args.port, keepalive=60)
client.loop_forever(retry_first_connection=False)
