"""Requests below boto3: checksums behind the content, broken signatures, bodies that break off."""

import base64
import http.client
import urllib.parse
import zlib

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from common import REGION, client, run

UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"


class Signer(S3SigV4Auth):
    """Signs what it is told the payload is."""

    def __init__(self, payload):
        super().__init__(Credentials("AKIAALL", "secret of AKIAALL"), "s3", REGION)
        self.told = payload

    def payload(self, request):
        return self.told

    def _should_sha256_sign_payload(self, request):
        return True


def send(url, method, path, headers, body, payload="UNSIGNED-PAYLOAD", signed_path=None, date=None):
    place = urllib.parse.urlsplit(url)
    request = AWSRequest(method, url + (signed_path or path), headers={**headers, "host": place.netloc})
    Signer(payload).add_auth(request)
    if date:
        request.headers.replace_header("X-Amz-Date", date)
    connection = http.client.HTTPConnection(place.netloc, timeout=20)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in request.headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    try:
        connection.send(body)
    except ConnectionError:
        pass
    answer = connection.getresponse()
    return answer.status, answer.read().decode(errors="replace")


def chunked(content, trailer, chunk=70_000):
    pieces = [content[start:start + chunk] for start in range(0, len(content), chunk)]
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return body + b"0\r\n" + trailer + b"\r\n"


def with_trailer(url, key, content, value, name="x-amz-checksum-crc32"):
    trailer = f"{name}:{value}\r\n".encode() if value else b""
    body = chunked(content, trailer)
    headers = {
        "content-encoding": "aws-chunked",
        "x-amz-trailer": "x-amz-checksum-crc32",
        "x-amz-sdk-checksum-algorithm": "CRC32",
        "x-amz-decoded-content-length": str(len(content)),
        "content-length": str(len(body)),
    }
    return send(url, "PUT", "/raw/" + key, headers, body, UNSIGNED_TRAILER)


def crc32(content):
    return base64.b64encode(zlib.crc32(content).to_bytes(4, "big")).decode()


def program(url, _work):
    s3 = client(url)
    s3.create_bucket(Bucket="raw", CreateBucketConfiguration={"LocationConstraint": REGION})
    content = bytes(range(256)) * 1000

    status, text = with_trailer(url, "good", content, crc32(content))
    assert status == 200, text
    got = s3.get_object(Bucket="raw", Key="good", ChecksumMode="ENABLED")
    assert got["Body"].read() == content and got["ChecksumCRC32"] == crc32(content)
    assert "ContentEncoding" not in got, "how it was sent is not what it is"

    status, text = with_trailer(url, "bad", content, crc32(content + b"x"))
    assert status == 400 and "BadDigest" in text, (status, text)
    status, text = with_trailer(url, "bad", content, None)
    assert status == 400, (status, text)

    status, text = send(url, "PUT", "/raw/bad", {"content-length": "1"}, b"x", payload="0" * 64)
    assert status in (400, 403), (status, text)
    status, text = send(url, "PUT", "/raw/bad", {"content-length": "1"}, b"x", signed_path="/raw/other")
    assert status == 403 and "SignatureDoesNotMatch" in text, (status, text)
    status, text = send(url, "PUT", "/raw/bad", {"content-length": "1"}, b"x", date="20200101T000000Z")
    assert status == 403, (status, text)
    status, text = send(url, "PUT", "/raw/../../good-escape", {"content-length": "1"}, b"x")
    assert status == 200, (status, text)
    listed = [line["Key"] for line in s3.list_objects_v2(Bucket="raw")["Contents"]]
    assert listed == ["../../good-escape", "good"], listed
    # boto3 cannot ask for it: below it, `..` is taken out of the address.
    s3.delete_objects(Bucket="raw", Delete={"Objects": [{"Key": "../../good-escape"}]})
    status, text = send(url, "GET", "/..%2F..%2Fetc/passwd", {}, b"")
    assert status in (400, 403, 404), (status, text)

    place = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(place.netloc, timeout=20)
    request = AWSRequest("PUT", url + "/raw/bad", headers={"host": place.netloc, "content-length": "1000000"})
    Signer("UNSIGNED-PAYLOAD").add_auth(request)
    connection.putrequest("PUT", "/raw/bad", skip_host=True, skip_accept_encoding=True)
    for name, value in request.headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    connection.send(b"x" * 1000)
    connection.close()

    status, text = send(url, "GET", "/raw/good", {}, b"")
    assert status == 200
    connection = http.client.HTTPConnection(place.netloc, timeout=20)
    connection.request("GET", "/raw/good")
    assert connection.getresponse().status == 403, "nobody reads without a signature"


run(program)
