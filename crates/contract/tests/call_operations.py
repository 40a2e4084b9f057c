"""Calls operations with boto3 from the calls on standard input, one JSON document a line, and prints what came back.

A value `{"$bytes": "..."}` is sent as bytes, `{"$time": "..."}` as a moment.
"""

import datetime
import json
import sys

import boto3
import botocore
import botocore.config
import botocore.exceptions


def meant(value):
    if isinstance(value, list):
        return [meant(child) for child in value]
    if not isinstance(value, dict):
        return value
    if "$bytes" in value:
        return value["$bytes"].encode()
    if "$time" in value:
        return datetime.datetime.fromisoformat(value["$time"])
    return {name: meant(child) for name, child in value.items()}


def plain(value):
    if isinstance(value, dict):
        return {name: plain(child) for name, child in value.items() if name != "ResponseMetadata"}
    if isinstance(value, list):
        return [plain(child) for child in value]
    if isinstance(value, bytes):
        return value.decode()
    return value.timestamp() if isinstance(value, datetime.datetime) else value


def answer(client, call):
    try:
        if call.get("pages"):
            return {"pages": [plain(page) for page in client.get_paginator(call["call"]).paginate(**meant(call["with"]))]}
        answered = getattr(client, call["call"])(**meant(call["with"]))
        return {"status": answered["ResponseMetadata"]["HTTPStatusCode"], "answer": plain(answered)}
    except botocore.exceptions.ClientError as error:
        names = [kind.__name__ for kind in type(error).__mro__]
        return {"fault": names[0], **plain({name: child for name, child in error.response.items() if name != "Error"}), "error": error.response["Error"]}


def main(endpoint):
    client = boto3.client(
        "lookoutvision",
        endpoint_url=endpoint,
        region_name="eu-west-1",
        aws_access_key_id="AKIAIOSFODNN7EXAMPLE",
        aws_secret_access_key="example",
        config=botocore.config.Config(retries={"max_attempts": 0}, read_timeout=20),
    )
    print(json.dumps({"botocore": botocore.__version__}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(client, json.loads(line))), flush=True)


main(sys.argv[1])
