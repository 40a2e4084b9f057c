"""The Sparkplug side of a PLC, as a host application on pysparkplug: tells the births, heartbeats and deaths of one node
and the decisions of one line, and asks for a rebirth when it came too late for one. Arguments: the broker's port, group,
node and line. One JSON document a line."""

import json
import logging
import sys
import threading
import time

import pysparkplug as psp

PORT, GROUP, NODE, LINE = int(sys.argv[1]), *sys.argv[2:5]
lock = threading.Lock()
logging.basicConfig(stream=sys.stderr, level=logging.CRITICAL)
known = {"run": None, "bd_seq": None, "asked_at": 0.0}


def say(**document):
    with lock:
        print(json.dumps({"at": time.time(), **document}), flush=True)


def milliseconds(value):
    return value if isinstance(value, (int, float)) else value.timestamp() * 1000


def born(payload):
    (known["bd_seq"],) = [m.value for m in payload.metrics if m.name == "bdSeq"]
    # Numbers go on across a rebirth and begin anew in a new process: either way it is another run.
    known["run"] = payload.timestamp
    say(kind="heartbeat")


def ordered(payload):
    told = {m.name: m for m in payload.metrics if m.name.startswith("Decision/")}
    if "Decision/Number" not in told:
        return
    value = {name.removeprefix("Decision/"): metric.value for name, metric in told.items()}
    is_historical = any(metric.is_historical for metric in told.values())
    expires_at, reject_at = value["Expires At"], value["Reject At"]
    is_over = is_historical or milliseconds(expires_at) <= time.time() * 1000
    say(kind="order", run=known["run"] & 0xFFFFFFFF, number=value["Number"], part=value["Trigger"],
        action=value["Action"], expired=is_over, historical=is_historical, verdict=value["Verdict"],
        reason=value["Reason"], reject_at_ms=None if reject_at is None else milliseconds(reject_at))


def heard(client, message):
    """Of a message that could not be read there is nothing."""
    if message is None or message.topic.edge_node_id != NODE:
        return
    topic = message.topic
    kind = str(topic.message_type.value)
    if kind in ("NDATA", "DDATA") and any(metric.name is None for metric in message.payload.metrics):
        # Aliases whose birth was said before we were there.
        client.ask_for_rebirth()
    elif kind == "NBIRTH":
        born(message.payload)
    elif kind == "NDEATH" and message.payload.bd_seq_metric.value == known["bd_seq"]:
        say(kind="offline")
    elif known["run"] is not None and kind == "NDATA":
        say(kind="heartbeat")
    elif known["run"] is not None and kind == "DDATA" and topic.device_id == LINE:
        ordered(message.payload)


class Host(psp.Client):
    def _handle_message(self, mqtt_message):
        try:
            return super()._handle_message(mqtt_message)
        except Exception:
            # An exception would end the client's thread.
            self.ask_for_rebirth()
            return None

    def ask_for_rebirth(self):
        if time.time() - known["asked_at"] < 0.5:
            return
        known["asked_at"] = time.time()
        now = psp.get_current_timestamp()
        metric = psp.Metric(timestamp=now, name="Node Control/Rebirth", datatype=psp.DataType.BOOLEAN, value=True)
        topic = psp.Topic(group_id=GROUP, message_type=psp.MessageType.NCMD, edge_node_id=NODE)
        self.publish(psp.Message(topic=topic, payload=psp.NCmd(timestamp=now, metrics=(metric,)),
                                 qos=psp.QoS.AT_MOST_ONCE, retain=False), include_dtypes=True)


host = Host(client_id=f"plc-{PORT}", client_options=psp.ClientOptions(reconnection_delay_min=1, reconnection_delay_max=1))
connected = threading.Event()
host.connect("127.0.0.1", port=PORT, keepalive=10, callback=lambda _: connected.set())
host.subscribe(psp.Topic(group_id=GROUP, message_type="#"), psp.QoS.AT_LEAST_ONCE, heard)
connected.wait(10)
time.sleep(0.1)
say(kind="ready")
for _ in sys.stdin:
    pass
