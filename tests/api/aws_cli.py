"""`aws lookoutvision` in the place of a boto3 client: the same calls, made as somebody would type them into a shell."""

import base64
import json
import os
import re
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from botocore.exceptions import ClientError

# A service error ends the command with this.
SERVICE_ERROR = 255


def kebab(name):
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


class Pages:
    def __init__(self, call):
        self.call = call

    def paginate(self, PaginationConfig, **arguments):
        # The command asks for all pages by itself, of this size.
        yield self.call(page_size=PaginationConfig["PageSize"], **arguments)


class AwsCli:
    """One method for each command; answers as boto3 gives them."""

    def __init__(self, endpoint, region, key, secret, attempts=1):
        self.endpoint, self.region = endpoint, region
        self.environment = dict(
            os.environ, AWS_ACCESS_KEY_ID=key, AWS_SECRET_ACCESS_KEY=secret, AWS_RETRY_MODE="standard", AWS_MAX_ATTEMPTS=str(attempts), AWS_PAGER="", AWS_CONFIG_FILE=os.devnull
        )

    def __getattr__(self, name):
        return lambda **arguments: self.run(name.replace("_", "-"), **arguments)

    def get_paginator(self, name):
        return Pages(getattr(self, name))

    def run(self, command, page_size=None, **arguments):
        with tempfile.TemporaryDirectory() as folder:
            line = [sys.executable, "-m", "awscli", "lookoutvision", command, "--endpoint-url", self.endpoint, "--region", self.region, "--output", "json"]
            if page_size:
                line += ["--page-size", str(page_size)]
            for name, value in arguments.items():
                line += self.option(name, value, Path(folder))
            done = subprocess.run(line, capture_output=True, env=self.environment, check=False)
        told = done.stderr.decode()
        if done.returncode == SERVICE_ERROR and (error := re.search(r"An error occurred \((\w+)\) when calling the \w+ operation[^:]*: (.*)", told, re.S)):
            details = {"Code": error[1], "Message": error[2].strip()}
            # The command does not tell the status.
            raise ClientError({"Error": details, "ResponseMetadata": {"HTTPStatusCode": None}}, command)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(line[3:])} ended with {done.returncode}: {told}")
        return revived(json.loads(done.stdout or "{}"))

    def option(self, name, value, folder):
        option = f"--{kebab(name)}"
        if name in ("Body", "Changes"):
            path = folder / name
            path.write_bytes(value if isinstance(value, bytes) else value.read())
            # A body is a path as it is, other bytes need to be asked for as such.
            return [option, str(path) if name == "Body" else f"fileb://{path}"]
        if isinstance(value, bool):
            return [option if value else f"--no-{kebab(name)}"]
        if isinstance(value, datetime):
            return [option, value.isoformat()]
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return [option, *value]
        return [option, json.dumps(value) if isinstance(value, (dict, list)) else str(value)]


def revived(answer):
    """Times and bytes as boto3 has them."""
    if isinstance(answer, dict):
        return {name: revive(name, revived(value)) for name, value in answer.items()}
    if isinstance(answer, list):
        return [revived(value) for value in answer]
    return answer


def revive(name, value):
    if name.endswith("Timestamp"):
        # As the service sent it: seconds since 1970.
        return datetime.fromtimestamp(value, timezone.utc)
    return base64.b64decode(value) if name == "AnomalyMask" else value
