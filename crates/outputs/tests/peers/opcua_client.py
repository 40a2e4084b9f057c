"""An OPC UA client on asyncua: browses, reads types and values, subscribes. One JSON document a line, both ways."""

import asyncio
import json
import logging
import sys
from datetime import datetime

from asyncua import Client, ua
from asyncua.common.events import get_filter_from_event_type
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256

logging.basicConfig(stream=sys.stderr, level=logging.CRITICAL)
NAMESPACE = "urn:linewarden:lines"


def plain(value):
    return value.isoformat() if isinstance(value, datetime) else value


def say(document):
    print(json.dumps(document), flush=True)


class Ear:
    """What subscriptions bring."""

    def datachange_notification(self, node, value, data):
        status = data.monitored_item.Value.StatusCode
        say({"change": node.nodeid.Identifier, "value": plain(value), "status": status.name})

    def event_notification(self, event):
        names = ("Line", "Number", "Part", "Trigger", "Verdict", "Action", "Reason", "Severity")
        say({"event": {name: plain(getattr(event, name, None)) for name in names}})


async def run(client):
    at = await client.get_namespace_index(NAMESPACE)

    def node(path):
        return client.get_node(ua.NodeId(path, at))

    ear = Ear()
    subscriptions = []
    say({"connected": True})
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        match order["do"]:
            case "browse":
                # By names from the root, as an engineer's tool finds them.
                lines = await client.nodes.objects.get_child(f"{at}:Lines")
                found = {}
                for child in await lines.get_children():
                    kind = await client.get_node(await child.read_type_definition()).read_browse_name()
                    members = [(await member.read_browse_name()).Name for member in await child.get_children()]
                    found[(await child.read_browse_name()).Name] = [kind.Name, *sorted(members)]
                say(found)
            case "types":
                types = {}
                for path in order["paths"]:
                    data_type = client.get_node(await node(path).read_data_type())
                    types[path] = (await data_type.read_browse_name()).Name
                verdict = client.get_node(ua.NodeId("Verdict", at))
                definition = await verdict.read_data_type_definition()
                types["Verdict"] = [field.Name for field in definition.Fields]
                (strings,) = await verdict.get_properties()
                types["EnumStrings"] = [word.Text for word in await strings.read_value()]
                say(types)
            case "read":
                data = await node(order["path"]).read_data_value(raise_on_bad_status=False)
                say({"value": plain(data.Value.Value), "status": data.StatusCode.name,
                     "source": plain(data.SourceTimestamp)})
            case "write":
                try:
                    await node(order["path"]).write_value(True)
                    say({"written": True})
                except ua.UaStatusCodeError as error:
                    say({"refused": type(error).__name__})
            case "subscribe":
                subscription = await client.create_subscription(20, ear)
                await subscription.subscribe_data_change([node(path) for path in order["paths"]], queuesize=100,
                                                         sampling_interval=0)
                kind = node("DecisionEventType")
                wanted = await get_filter_from_event_type([kind], where_clause_generation=False)
                of_type = ua.ContentFilterElement(FilterOperator=ua.FilterOperator.OfType)
                of_type.FilterOperands.append(ua.LiteralOperand(Value=ua.Variant(kind.nodeid)))
                wanted.WhereClause.Elements.append(of_type)
                await subscription.subscribe_events(client.nodes.server, kind, evfilter=wanted, queuesize=1000)
                subscriptions.append(subscription)
                say({"subscribed": True})


async def main():
    client = Client(sys.argv[1], timeout=10)
    if len(sys.argv) > 2:
        options = json.loads(sys.argv[2])
        if "user" in options:
            client.set_user(options["user"])
            client.set_password(options["password"])
        if "certificate" in options:
            client.application_uri = options["uri"]
            await client.set_security(SecurityPolicyBasic256Sha256, options["certificate"], options["key"],
                                      mode=ua.MessageSecurityMode.SignAndEncrypt)
    try:
        async with client:
            await run(client)
    except Exception as error:
        say({"connected": False, "error": repr(error)})


asyncio.run(main())
