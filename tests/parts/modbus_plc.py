"""A PLC as pymodbus's server: an input that is on and a register that counts, as it is told; it tells when what the input
is now was read first. One JSON document a line, both ways."""

import asyncio
import json
import sys

from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

INPUT, REGISTER = 16, 7
told = {"input": False, "count": 0}
read = {"input": None}


async def accessed(function, _start, _address, _count, registers, _values):
    """Every access of our client comes by here."""
    if function == 2:
        # Sixteen inputs to a word.
        registers[INPUT // 16] = int(told["input"])
        if read["input"] != told["input"]:
            read["input"] = told["input"]
            print(json.dumps({"read": read["input"]}), flush=True)
    if function == 4:
        registers[REGISTER] = told["count"]


async def main():
    coils, inputs = (SimData(0, count=64, values=False, datatype=DataType.BITS) for _ in range(2))
    holding, counts = (SimData(0, count=64, values=0, datatype=DataType.REGISTERS) for _ in range(2))
    device = SimDevice(1, simdata=([coils], [inputs], [holding], [counts]), action=accessed)
    server = ModbusTcpServer(device, address=("127.0.0.1", int(sys.argv[1])))
    await server.serve_forever(background=True)
    print(json.dumps({"listening": True}), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        told.update(json.loads(line))


asyncio.run(main())
