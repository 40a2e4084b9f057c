"""Signs requests as botocore does. Takes a JSON document a line: method, url, body, key, secret, region, service."""

import json
import sys

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

for line in sys.stdin:
    order = json.loads(line)
    request = AWSRequest(method=order["method"], url=order["url"], data=order["body"].encode(), headers=order.get("headers", {}))
    SigV4Auth(Credentials(order["key"], order["secret"]), order["service"], order["region"]).add_auth(request)
    headers = dict(request.headers.items())
    headers.setdefault("Host", request.prepare().url.split("/")[2])
    print(json.dumps({"headers": headers}), flush=True)
