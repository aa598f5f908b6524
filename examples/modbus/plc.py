#!/usr/bin/env python3
"""The legacy server: a PLC that speaks Modbus/TCP in plain text, without TLS.

It is pymodbus's server, unchanged, on port 5020, because 502 needs root. Holding registers 0 and 1
are a temperature and a set point, in tenths of a degree.
"""

from pymodbus.server import StartTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

registers = SimData(0, values=[215, 180], datatype=DataType.REGISTERS)
StartTcpServer(SimDevice(id=1, simdata=[registers]), address=("127.0.0.1", 5020))
