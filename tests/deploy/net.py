"""Ports, HTTP requests and TLS connections of the checks."""

import socket
import ssl
import threading
import urllib.error
import urllib.request


def free_port():
    """Returns a port that no program on this machine listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def http(url, method="GET", timeout=5.0):
    """Returns status and body of the answer; status 0 where there is none."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def device(address, ca, name, certificate=None, timeout=10.0):
    """Connects as a device does, and checks the server's certificate against `name`."""
    return over(socket.create_connection(address, timeout=timeout), ca, name, certificate)


def over(stream, ca, name, certificate=None):
    """Performs a handshake on a TCP connection; returns the TLS connection."""
    context = ssl.create_default_context(cafile=ca)
    if certificate:
        context.load_cert_chain(*certificate)
    return context.wrap_socket(stream, server_hostname=name, suppress_ragged_eofs=False)


def in_background(function, *arguments):
    """Runs a function in a thread that does not keep the process alive."""
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread
