"""A PLC as pymodbus sees one: polls, acts on a decision once, acknowledges. One JSON document a line, both ways."""

import json
import sys
import time

from pymodbus.client import ModbusTcpClient


def pair(registers, at):
    return registers[at] << 16 | registers[at + 1]


def decision(plc):
    """The picture in one read: nothing in it belongs to another moment."""
    r = plc.read_holding_registers(0, count=40).registers
    return {
        "fresh": bool(r[3] & 8), "reject": bool(r[3] & 1), "state": r[2], "heartbeat": r[1], "number": pair(r, 8),
        "part": pair(r, 10), "trigger": pair(r, 12), "verdict": r[16], "reason": r[18], "until_gate_ms": pair(r, 20),
        "live_ms": pair(r, 22), "total": pair(r, 24), "unacknowledged": pair(r, 32), "acknowledged": pair(r, 6), "stop": pair(r, 38),
    }


def work(plc, parts):
    """Works the gate until so many parts have come by."""
    seen = []
    while len(seen) < parts:
        now = decision(plc)
        if now["fresh"]:
            seen.append(now)
            plc.write_register(100, now["number"] & 0xFFFF)
        else:
            time.sleep(0.002)
    return seen


with ModbusTcpClient("127.0.0.1", port=int(sys.argv[1])) as plc:
    for line in sys.stdin:
        order = json.loads(line)
        match order["do"]:
            case "work":
                answer = work(plc, order["parts"])
            case "look":
                answer = decision(plc)
            case "coils":
                answer = plc.read_coils(0, count=8).bits[:8]
            case "inputs":
                answer = plc.read_discrete_inputs(0, count=8).bits[:8]
            case "wrong":
                answer = [
                    plc.read_holding_registers(39, count=2).exception_code,
                    plc.write_register(3, 1).exception_code,
                    plc.write_coil(0, True).exception_code,
                    plc.read_coils(1000, count=1).exception_code,
                ]
            case "readwrite":
                answer = plc.readwrite_registers(
                    read_address=0, read_count=40, write_address=100, values=[order["number"]]
                ).registers
        print(json.dumps(answer), flush=True)
