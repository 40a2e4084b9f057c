"""An object that is sent in two halves; the second one when it is told to."""

import http.client
import json
import sys
import urllib.parse

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from common import REGION

HALF = 100_000

url = sys.argv[1]
request = AWSRequest("PUT", url + "/images/slow", headers={
    "host": urllib.parse.urlsplit(url).netloc, "content-length": str(2 * HALF), "x-amz-content-sha256": "UNSIGNED-PAYLOAD"})


class Unsigned(S3SigV4Auth):
    def payload(self, request):
        return "UNSIGNED-PAYLOAD"


Unsigned(Credentials("AKIAALL", "secret of AKIAALL"), "s3", REGION).add_auth(request)
connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=60)
connection.putrequest("PUT", "/images/slow", skip_host=True, skip_accept_encoding=True)
for name, value in request.headers.items():
    connection.putheader(name, value)
connection.endheaders()
connection.send(b"1" * HALF)
print(json.dumps("half"), flush=True)
sys.stdin.readline()
connection.send(b"2" * HALF)
print(json.dumps(connection.getresponse().status), flush=True)
