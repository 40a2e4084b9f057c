"""An object of 300 MB, there and back, in one piece and encrypted."""

import hashlib
import pathlib

from common import client, run

SIZE = 300_000_000


def program(url, work):
    source = pathlib.Path(work) / "source"
    with source.open("wb") as file:
        for number in range(SIZE // 100_000):
            file.write(number.to_bytes(4, "big") * 25_000)
    s3 = client(url)
    with source.open("rb") as file:
        s3.put_object(Bucket="large", Key="whole", Body=file, ServerSideEncryption="aws:kms", SSEKMSKeyId="line-1")
    s3.upload_file(str(source), "large", "parts")
    with source.open("rb") as file:
        wanted = hashlib.file_digest(file, "sha256").hexdigest()
    for key in ("whole", "parts"):
        digest = hashlib.sha256()
        for piece in s3.get_object(Bucket="large", Key=key)["Body"].iter_chunks(1024 * 1024):
            digest.update(piece)
        assert digest.hexdigest() == wanted, key


run(program)
