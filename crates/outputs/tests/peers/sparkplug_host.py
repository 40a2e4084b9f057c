"""A Sparkplug host application on pysparkplug: holds every node to the rules and tells what it hears. One JSON document a
line, both ways."""

import json
import logging
import sys
import threading
import time

import pysparkplug as psp
from paho.mqtt import client as paho

PORT, GROUP, HOST = int(sys.argv[1]), sys.argv[2], sys.argv[3]
lock = threading.Lock()
logging.basicConfig(stream=sys.stderr, level=logging.ERROR)


def say(**document):
    with lock:
        print(json.dumps(document), flush=True)


class Rules:
    """What must hold of one node: its numbers, its births before its data, its names."""

    def __init__(self):
        self.seq = None
        self.bd_seq = None
        self.devices = set()

    def check(self, kind, message):
        payload = message.payload
        if kind == "NDEATH":
            bd_seq = payload.bd_seq_metric.value
            known, self.seq = self.seq is not None, None
            self.devices.clear()
            return [] if not known or bd_seq == self.bd_seq else [f"death {bd_seq} of a connection with {self.bd_seq}"]
        faults = []
        if kind == "NBIRTH":
            if payload.seq != 0:
                faults.append(f"birth with seq {payload.seq}")
            (self.bd_seq,) = [m.value for m in payload.metrics if m.name == "bdSeq"]
            self.devices.clear()
        elif self.seq is None:
            return ["data before birth"]
        elif payload.seq != (self.seq + 1) % 256:
            faults.append(f"seq {payload.seq} after {self.seq}")
        self.seq = payload.seq
        device = message.topic.device_id
        if kind == "DBIRTH":
            self.devices.add(device)
        if kind in ("DDATA", "DDEATH") and device not in self.devices:
            faults.append(f"{kind} of {device} before its birth")
        if kind == "DDEATH":
            self.devices.discard(device)
        if message.qos != psp.QoS.AT_MOST_ONCE or message.retain:
            faults.append(f"{kind} with qos {message.qos} or retained")
        return faults


nodes = {}
quiet = {"NDATA"}


def heard(_client, message):
    topic = message.topic
    kind = str(topic.message_type.value)
    try:
        rules = nodes.setdefault(topic.edge_node_id, Rules())
        if kind in ("NCMD", "DCMD"):
            return
        faults = rules.check(kind, message)
        told = (message.payload.bd_seq_metric,) if kind == "NDEATH" else getattr(message.payload, "metrics", ())
        metrics = {m.name: m.value for m in told}
        historical = any(m.is_historical for m in told)
        aliases = all(m.alias is not None for m in told)
        if kind not in quiet or faults:
            say(kind=kind, device=topic.device_id, metrics={k: str(v) for k, v in metrics.items()}, faults=faults,
                historical=historical, aliases=aliases, seq=getattr(message.payload, "seq", None))
    except Exception as error:
        say(kind=kind, faults=[repr(error)])


def broken(_client, raw):
    """A payload that pysparkplug cannot read, such as one with an alias that was never born."""
    say(kind="unreadable", faults=[raw])


class Host(psp.Client):
    def _handle_message(self, mqtt_message):
        try:
            return super()._handle_message(mqtt_message)
        except Exception as error:
            broken(self, f"{mqtt_message.topic}: {error!r}")
            raise


host = Host(client_id=f"host-{HOST}", client_options=psp.ClientOptions(reconnection_delay_min=1, reconnection_delay_max=1))
connected = threading.Event()
host.connect("127.0.0.1", port=PORT, callback=lambda _: connected.set())
host.subscribe(psp.Topic(group_id=GROUP, message_type="#"), psp.QoS.AT_LEAST_ONCE, heard)
voice = paho.Client(client_id=f"voice-{HOST}")
voice.reconnect_delay_set(1, 1)
voice.connect("127.0.0.1", PORT)
voice.loop_start()
connected.wait(10)
time.sleep(0.1)
say(kind="ready", faults=[])
for line in sys.stdin:
    order = json.loads(line)
    match order["do"]:
        case "state":
            state = json.dumps({"online": order["online"], "timestamp": int(time.time() * 1000)})
            voice.publish(f"spBv1.0/STATE/{HOST}", state, qos=1, retain=True).wait_for_publish(10)
        case "rebirth":
            metric = psp.Metric(timestamp=psp.get_current_timestamp(), name="Node Control/Rebirth",
                                datatype=psp.DataType.BOOLEAN, value=True)
            payload = psp.NCmd(timestamp=psp.get_current_timestamp(), metrics=(metric,))
            topic = psp.Topic(group_id=GROUP, message_type=psp.MessageType.NCMD, edge_node_id=order["node"])
            host.publish(psp.Message(topic=topic, payload=payload, qos=psp.QoS.AT_MOST_ONCE, retain=False),
                         include_dtypes=True)
