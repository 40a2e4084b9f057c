"""The Modbus side of a PLC, on pymodbus: polls the daemon's picture as docs/modbus.md has it and tells what is new in it;
holds a register that counts parts, for a daemon that polls it. Arguments: the daemon's port, and our own or 0. One JSON
document a line, both ways."""

import asyncio
import json
import logging
import sys
import time

from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ModbusException
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

DAEMON, OWN = int(sys.argv[1]), int(sys.argv[2])
COUNT = 7
POLL, RETRY, ANSWER = 0.004, 0.05, 1.0
part = {"number": 0}
logging.getLogger("pymodbus").setLevel(logging.CRITICAL)


def say(**document):
    print(json.dumps({"at": time.time(), **document}), flush=True)


def pair(registers, at):
    return registers[at] << 16 | registers[at + 1]


async def watch(plc):
    """Tells what changes, until the connection fails."""
    heartbeat, acted, was_ok = None, None, True
    while True:
        r = (await plc.read_holding_registers(0, count=40)).registers
        is_ok = bool(r[3] & 16)
        if was_ok and not is_ok:
            say(kind="offline")
        if is_ok and r[1] != heartbeat:
            say(kind="heartbeat")
        was_ok, heartbeat = is_ok, r[1]
        # With its run: after a restart numbers begin anew.
        number = (r[4], pair(r, 8))
        if number[1] != 0 and number != acted:
            acted = number
            is_fresh = bool(r[3] & 8) and pair(r, 22) > 0
            say(kind="order", run=r[4], number=number[1], part=pair(r, 12), action=r[17], expired=not is_fresh,
                verdict=r[16], reason=r[18], until_gate_ms=pair(r, 20), live_ms=pair(r, 22))
            # It stands in the shift register now: make room for the next.
            await plc.write_register(100, number[1] & 0xFFFF)
        await asyncio.sleep(POLL)


async def poll():
    was_there = True
    while True:
        plc = AsyncModbusTcpClient("127.0.0.1", port=DAEMON, timeout=ANSWER, retries=0, reconnect_delay=0)
        try:
            if await plc.connect():
                was_there = True
                await watch(plc)
        except (ModbusException, OSError, asyncio.TimeoutError, AttributeError):
            # An error's answer has no registers.
            pass
        finally:
            plc.close()
        if was_there:
            say(kind="offline")
            was_there = False
        await asyncio.sleep(RETRY)


async def accessed(function, _start, _address, _count, registers, _values):
    if function == 4:
        registers[COUNT] = part["number"] & 0xFFFF


async def serve():
    coils, inputs = (SimData(0, count=64, values=False, datatype=DataType.BITS) for _ in range(2))
    holding, counts = (SimData(0, count=64, values=0, datatype=DataType.REGISTERS) for _ in range(2))
    device = SimDevice(1, simdata=([coils], [inputs], [holding], [counts]), action=accessed)
    await ModbusTcpServer(device, address=("127.0.0.1", OWN)).serve_forever(background=True)


async def main():
    if OWN:
        await serve()
    polling = asyncio.create_task(poll())
    say(kind="ready")
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        part["number"] = json.loads(line)["trigger"]
    polling.cancel()


asyncio.run(main())
