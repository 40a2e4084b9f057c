"""Calls of the API and of S3 by one user. Arguments: address of the API, of S3, region, access key, secret, and what calls the
API: `boto3`, or `aws` for the command line.

Takes an order a line: `{"api"|"s3": method, "with": arguments}`; answers with what came, or with the refusal.
"""

import json
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from aws_cli import AwsCli

api, s3_address, region, key, secret, caller = sys.argv[1:7]
once = Config(retries={"mode": "standard", "total_max_attempts": 1})
keys = dict(region_name=region, aws_access_key_id=key, aws_secret_access_key=secret, config=once)
lookout = AwsCli(api, region, key, secret) if caller == "aws" else boto3.client("lookoutvision", endpoint_url=api, **keys)
clients = {"api": lookout, "s3": boto3.client("s3", endpoint_url=s3_address, **keys)}

for line in sys.stdin:
    order = json.loads(line)
    kind = "api" if "api" in order else "s3"
    try:
        answer = getattr(clients[kind], order[kind])(**order.get("with", {}))
        answer.pop("ResponseMetadata", None)
        seen = {"answer": answer}
    except ClientError as error:
        told = error.response
        # The command line tells neither headers nor status.
        headers = told["ResponseMetadata"].get("HTTPHeaders", {})
        seen = {
            "code": told["Error"]["Code"],
            "message": told["Error"].get("Message", ""),
            "status": told["ResponseMetadata"]["HTTPStatusCode"],
            "retry-after": headers.get("retry-after"),
            "more": {name: told[name] for name in ("QuotaCode", "ServiceCode", "ResourceType") if name in told},
        }
    except Exception as error:  # such as a server that is not who it says
        seen = {"failed": f"{type(error).__name__}: {error}"}
    print(json.dumps(seen, default=str), flush=True)
