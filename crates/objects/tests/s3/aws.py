"""The command line that users know, over the endpoint."""

import os
import pathlib
import subprocess
import sys

from common import REGION, client, run


def program(url, work):
    work = pathlib.Path(work)
    environment = dict(
        os.environ,
        AWS_ACCESS_KEY_ID="AKIAALL",
        AWS_SECRET_ACCESS_KEY="secret of AKIAALL",
        AWS_DEFAULT_REGION=REGION,
        AWS_ENDPOINT_URL=url,
        AWS_CONFIG_FILE=str(work / "config"),
        AWS_SHARED_CREDENTIALS_FILE=str(work / "credentials"),
        AWS_EC2_METADATA_DISABLED="true",
    )

    def aws(*arguments):
        ran = subprocess.run([sys.executable, "-m", "awscli", *arguments], env=environment, cwd=work,
                             capture_output=True, text=True)
        assert ran.returncode == 0, (arguments, ran.stdout, ran.stderr)
        return ran.stdout

    tree = {"1.jpg": b"one", "normal/2.jpg": b"two", "normal/deep/3 4.jpg": b"three",
            "large.bin": os.urandom(20_000_000)}
    for name, content in tree.items():
        path = work / "local" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    aws("s3", "mb", "s3://images")
    aws("s3", "cp", "local/1.jpg", "s3://images/single/1.jpg")
    assert "single/1.jpg" in aws("s3", "ls", "s3://images", "--recursive")
    assert aws("s3", "cp", "s3://images/single/1.jpg", "-") == "one"
    assert "upload" in aws("s3", "sync", "local", "s3://images/tree")
    assert aws("s3", "sync", "local", "s3://images/tree") == "", "nothing changed"
    (work / "local/1.jpg").write_bytes(b"other")
    assert aws("s3", "sync", "local", "s3://images/tree").count("upload") == 1
    tree["1.jpg"] = b"other"

    lines = aws("s3", "ls", "s3://images/tree/").splitlines()
    assert [line.split()[-1] for line in lines] == ["normal/", "1.jpg", "large.bin"], lines
    aws("s3", "sync", "s3://images/tree", "back")
    back = {str(path.relative_to(work / "back")): path.read_bytes()
            for path in (work / "back").rglob("*") if path.is_file()}
    assert back == tree

    (work / "local/1.jpg").unlink()
    assert "delete" in aws("s3", "sync", "local", "s3://images/tree", "--delete")
    aws("s3", "mv", "s3://images/tree/large.bin", "s3://images/moved.bin")
    aws("s3", "rm", "s3://images/tree", "--recursive")
    left = client(url).list_objects_v2(Bucket="images")["Contents"]
    assert [(line["Key"], line["Size"]) for line in left] == [("moved.bin", 20_000_000), ("single/1.jpg", 3)], left
    aws("s3", "rb", "s3://images", "--force")


run(program)
