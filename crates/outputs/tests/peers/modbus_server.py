"""A PLC with memory of its own, as pymodbus's server: prints each write to its coils with the numbers beside them, and
acknowledges when told to. One JSON document a line, both ways."""

import asyncio
import json
import sys

from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

COILS, REGISTERS, ACKNOWLEDGE = 10, 200, 300
memory = {"words": [0] * 40, "acknowledge": 0}


async def accessed(function, _start, address, _count, registers, values):
    """Every access of our client comes by here."""
    if function == 16 and address == REGISTERS:
        memory["words"] = list(values)
    if function == 15 and address == COILS:
        w = memory["words"]
        print(json.dumps({"coils": [bool(v) for v in values], "number": w[8] << 16 | w[9], "part": w[10] << 16 | w[11],
                          "verdict": w[16], "heartbeat": w[1]}), flush=True)
    if function == 3 and address == ACKNOWLEDGE:
        registers[ACKNOWLEDGE] = memory["acknowledge"]


async def main():
    coils, inputs = (SimData(0, count=64, values=False, datatype=DataType.BITS) for _ in range(2))
    holding, input_words = (SimData(0, count=1000, values=0, datatype=DataType.REGISTERS) for _ in range(2))
    device = SimDevice(1, simdata=([coils], [inputs], [holding], [input_words]), action=accessed)
    server = ModbusTcpServer(device, address=("127.0.0.1", int(sys.argv[1])))
    await server.serve_forever(background=True)
    print(json.dumps({"listening": True}), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        memory["acknowledge"] = json.loads(line)["acknowledge"]


asyncio.run(main())
