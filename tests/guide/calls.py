"""Calls the guide's functions, and boto3 itself to hold them against.

Argument: the folder with the samples. Takes an order a line; answers each with what it gave, printed and logged, or with how
it failed. `$name` in an order stands for a result that an order before it was to `keep`.
"""

import contextlib
import inspect
import io
import json
import logging
import operator
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

folder = Path(sys.argv[1])
sys.path.insert(0, str(folder))

import as_then  # noqa: E402,F401
import boto3  # noqa: E402
from PIL import ImageFont  # noqa: E402

import samples  # noqa: E402

session = boto3.Session(profile_name="lookoutvision-access")
lookout, s3 = session.client("lookoutvision"), session.client("s3")
kept = {}
# For the sample that draws: any font does.
(folder / "font.ttf").write_bytes(ImageFont.load_default(12).font_bytes)


def filled(value):
    return kept[value[1:]] if isinstance(value, str) and value.startswith("$") else value


def sample(order):
    function = operator.attrgetter(order["sample"])(samples)
    takes_client = "lookoutvision_client" in inspect.signature(function).parameters
    return function(*[lookout] * takes_client, *map(filled, order["with"]))


def api(order):
    answer = getattr(lookout, order["api"])(**order["with"])
    answer.pop("ResponseMetadata")
    return answer


def upload(order):
    s3.create_bucket(Bucket=order["upload"])
    for key in order["with"]:
        s3.upload_file(str(folder / key), order["upload"], key)


def objects(order):
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=order["objects"])
    keys = [one["Key"] for page in pages for one in page.get("Contents", [])]
    for key in keys:
        path = folder / order["into"] / key
        path.parent.mkdir(parents=True, exist_ok=True)
        s3.download_file(order["objects"], key, str(path))
    return keys


def detect(order):
    """boto3's own answer; its mask becomes a file beside the picture."""
    picture = folder / order["detect"]
    answer = lookout.detect_anomalies(Body=picture.read_bytes(), ContentType="image/png", **order["with"])
    result = answer["DetectAnomalyResult"]
    picture.with_suffix(".answer.png").write_bytes(result["AnomalyMask"])
    return result


def lambda_service(order):
    """A stand-in for the service that runs functions, which is not ours: calls the one that there is."""
    import lambda_function

    class Functions(BaseHTTPRequestHandler):
        def do_POST(self):
            event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps(lambda_function.lambda_handler(event, None)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Functions)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


logged = io.StringIO()
logging.basicConfig(level=logging.WARNING, stream=logged, format="%(message)s")
samples.logger.setLevel(logging.INFO)
for line in sys.stdin:
    order = json.loads(line)
    (call,) = {"sample", "api", "upload", "objects", "detect", "lambda_service"} & order.keys()
    printed = io.StringIO()
    logged.seek(0)
    logged.truncate()
    try:
        with contextlib.redirect_stdout(printed):
            answer = globals()[call](order)
        kept[order.get("keep")] = answer
        seen = {"answer": answer}
    except Exception as error:  # told to the test, which expects it or fails with it
        seen = {"failed": f"{type(error).__name__}: {error}"}
    seen |= {"printed": printed.getvalue(), "logged": logged.getvalue()}
    # Masks are bytes, and are looked at as pictures.
    print(json.dumps(seen, default=lambda value: f"{len(value)} bytes" if isinstance(value, bytes) else str(value)), flush=True)
