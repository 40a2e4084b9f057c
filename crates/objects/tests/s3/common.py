"""What the client programs share: who they are, and how they say whether all was well."""

import json
import sys
import traceback

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

REGION = "eu-west-1"


def client(url, user="AKIAALL", secret=None, **config):
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id=user,
        aws_secret_access_key=secret or "secret of " + user,
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, **config),
    )


def refused(code, call, *arguments, **members):
    """Asserts that a call fails with this code, and gives the answer."""
    try:
        call(*arguments, **members)
    except ClientError as error:
        assert error.response["Error"]["Code"] == code, (code, error.response)
        return error.response
    raise AssertionError(f"not refused with {code}: {call}")


def run(program):
    """Runs a program with the endpoint's address and a folder, and says how it ended."""
    try:
        program(*sys.argv[1:])
        verdict = {"good": True}
    except BaseException:
        verdict = {"good": False, "why": traceback.format_exc()[-3000:]}
    print(json.dumps(verdict), flush=True)
