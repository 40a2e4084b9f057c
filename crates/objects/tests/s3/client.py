"""boto3 over the endpoint: every operation it offers, as a program of a user would call it."""

import base64
import datetime
import hashlib
import io
import urllib.error
import urllib.request
import zlib

from boto3.s3.transfer import TransferConfig
from common import REGION, client, refused, run

MIB = 1024 * 1024


def buckets(s3):
    s3.create_bucket(Bucket="images", CreateBucketConfiguration={"LocationConstraint": REGION})
    refused("BucketAlreadyOwnedByYou", s3.create_bucket, Bucket="images",
            CreateBucketConfiguration={"LocationConstraint": REGION})
    refused("404", s3.head_bucket, Bucket="nothing")
    refused("NoSuchBucket", s3.list_objects_v2, Bucket="nothing")
    assert s3.head_bucket(Bucket="images")["BucketRegion"] == REGION
    assert s3.get_bucket_location(Bucket="images")["LocationConstraint"] == REGION
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["images"]
    s3.create_bucket(Bucket="empty", CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.delete_bucket(Bucket="empty")


def objects(s3):
    put = s3.put_object(Bucket="images", Key="a/1.jpg", Body=b"hello", ContentType="image/jpeg",
                        CacheControl="no-store", ContentEncoding="gzip", ContentLanguage="fr",
                        ContentDisposition="inline", Expires=datetime.datetime(2030, 1, 2),
                        Metadata={"camera": "left", "shift": "3"})
    assert put["ETag"] == '"5d41402abc4b2a76b9719d911017c592"', put
    assert put["ChecksumCRC32"] == "NhCmhg==", put
    for told in (s3.get_object(Bucket="images", Key="a/1.jpg"), s3.head_object(Bucket="images", Key="a/1.jpg")):
        assert told["ContentLength"] == 5 and told["ContentType"] == "image/jpeg", told
        assert told["Metadata"] == {"camera": "left", "shift": "3"}, told
        assert told["CacheControl"] == "no-store" and told["ContentEncoding"] == "gzip", told
        assert told["ContentLanguage"] == "fr" and told["ContentDisposition"] == "inline", told
        assert "2030" in told["ResponseMetadata"]["HTTPHeaders"]["expires"], told
        assert told["ETag"] == put["ETag"] and told["AcceptRanges"] == "bytes", told
    got = s3.get_object(Bucket="images", Key="a/1.jpg", ResponseContentType="text/plain")
    assert got["ContentType"] == "text/plain" and got["Body"].read() == b"hello"
    age = datetime.datetime.now(datetime.timezone.utc) - got["LastModified"]
    assert datetime.timedelta(seconds=-2) < age < datetime.timedelta(minutes=5), age
    refused("NoSuchKey", s3.get_object, Bucket="images", Key="nothing")
    refused("404", s3.head_object, Bucket="images", Key="nothing")
    for call in (s3.get_object, s3.head_object, s3.delete_object):
        code = "404" if call == s3.head_object else "NoSuchVersion"
        refused(code, call, Bucket="images", Key="a/1.jpg", VersionId="3")
    assert s3.get_object(Bucket="images", Key="a/1.jpg", VersionId="null", PartNumber=1)["ContentLength"] == 5
    empty = s3.put_object(Bucket="images", Key="a/", Body=b"")
    assert empty["ETag"] == '"d41d8cd98f00b204e9800998ecf8427e"'
    assert s3.get_object(Bucket="images", Key="a/")["Body"].read() == b""


def ranges_and_conditions(s3):
    def part(wanted):
        got = s3.get_object(Bucket="images", Key="a/1.jpg", Range=wanted)
        assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
        return got["Body"].read(), got["ContentRange"]

    assert part("bytes=1-3") == (b"ell", "bytes 1-3/5")
    assert part("bytes=3-") == (b"lo", "bytes 3-4/5")
    assert part("bytes=-2") == (b"lo", "bytes 3-4/5")
    assert part("bytes=0-99") == (b"hello", "bytes 0-4/5")
    refused("InvalidRange", s3.get_object, Bucket="images", Key="a/1.jpg", Range="bytes=9-")

    head = s3.head_object(Bucket="images", Key="a/1.jpg")
    etag, modified = head["ETag"], head["LastModified"]
    here = {"Bucket": "images", "Key": "a/1.jpg"}
    s3.get_object(IfMatch=etag, **here)
    refused("PreconditionFailed", s3.get_object, IfMatch='"other"', **here)
    refused("304", s3.get_object, IfNoneMatch=etag, **here)
    refused("304", s3.head_object, IfNoneMatch=etag, **here)
    refused("304", s3.get_object, IfModifiedSince=modified, **here)
    s3.get_object(IfUnmodifiedSince=modified, **here)
    refused("PreconditionFailed", s3.get_object, IfUnmodifiedSince=modified - datetime.timedelta(days=1), **here)
    refused("PreconditionFailed", s3.put_object, Body=b"x", IfNoneMatch="*", **here)
    refused("PreconditionFailed", s3.put_object, Body=b"x", IfMatch='"other"', **here)
    s3.put_object(Body=b"hello", IfMatch=etag, **here)
    assert s3.put_object(Bucket="images", Key="new", Body=b"x", IfNoneMatch="*")


def crc(content, polynomial, bits):
    """What of a checksum boto3 would need compiled code for."""
    register = mask = (1 << bits) - 1
    for byte in content:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (polynomial if register & 1 else 0)
    return base64.b64encode((register ^ mask).to_bytes(bits // 8, "big")).decode()


def checksums(s3):
    content = b"checked"
    for algorithm, value in {
        "CRC32": crc(content, 0xEDB88320, 32),
        "CRC32C": crc(content, 0x82F63B78, 32),
        "CRC64NVME": crc(content, 0x9A6C9329AC4BC9B5, 64),
        "SHA1": base64.b64encode(hashlib.sha1(content).digest()).decode(),
        "SHA256": base64.b64encode(hashlib.sha256(content).digest()).decode(),
    }.items():
        member = "Checksum" + algorithm
        put = s3.put_object(Bucket="images", Key="checked", Body=content, **{member: value})
        assert put[member] == value, (algorithm, put)
        told = s3.get_object(Bucket="images", Key="checked", ChecksumMode="ENABLED")
        assert told[member] == value and told["ChecksumType"] == "FULL_OBJECT", (algorithm, told)
        assert told["Body"].read() == content
        refused("BadDigest", s3.put_object, Bucket="images", Key="bad", Body=content + b"!", **{member: value})
    put = s3.put_object(Bucket="images", Key="checked", Body=content, ChecksumAlgorithm="SHA256")
    assert put["ChecksumSHA256"] == value
    bad = refused("BadDigest", s3.put_object, Bucket="images", Key="bad", Body=b"x", ChecksumSHA256="A" * 43 + "=")
    assert bad["ResponseMetadata"]["HTTPStatusCode"] == 400
    refused("BadDigest", s3.put_object, Bucket="images", Key="bad", Body=b"x", ContentMD5="A" * 22 + "==")
    refused("404", s3.head_object, Bucket="images", Key="bad")


def listings(s3):
    for number in range(23):
        s3.put_object(Bucket="images", Key=f"list/{number % 3}/{number:02}", Body=b"x")
    for key in ("list/ä ö+&%2F", "list/new\nline", "list/0", "list//x", "list/<x>"):
        s3.put_object(Bucket="images", Key=key, Body=b"yy")
    wanted = sorted(
        [f"list/{number % 3}/{number:02}" for number in range(23)]
        + ["list/ä ö+&%2F", "list/new\nline", "list/0", "list//x", "list/<x>"],
        key=lambda key: key.encode(),
    )
    for operation in ("list_objects_v2", "list_objects"):
        for size in (1000, 7, 1):
            pages = s3.get_paginator(operation).paginate(
                Bucket="images", Prefix="list/", PaginationConfig={"PageSize": size})
            lines = [line for page in pages for line in page.get("Contents", [])]
            assert [line["Key"] for line in lines] == wanted, (operation, size)
            assert {line["Size"] for line in lines} == {1, 2}
            pages = s3.get_paginator(operation).paginate(
                Bucket="images", Prefix="list/", Delimiter="/", PaginationConfig={"PageSize": size})
            keys, prefixes = [], []
            for page in pages:
                keys += [line["Key"] for line in page.get("Contents", [])]
                prefixes += [line["Prefix"] for line in page.get("CommonPrefixes", [])]
            assert prefixes == ["list//", "list/0/", "list/1/", "list/2/"], (operation, size, prefixes)
            assert keys == [key for key in wanted if key.count("/") == 1], (operation, size, keys)
    page = s3.list_objects_v2(Bucket="images", Prefix="list/", StartAfter="list/2/20", MaxKeys=2)
    assert [line["Key"] for line in page["Contents"]] == ["list/<x>", "list/new\nline"] and page["IsTruncated"]
    assert page["KeyCount"] == 2 and page["StartAfter"] == "list/2/20"
    assert s3.list_objects_v2(Bucket="images", MaxKeys=0)["KeyCount"] == 0
    assert "Contents" not in s3.list_objects_v2(Bucket="images", Prefix="nothing/")
    refused("InvalidArgument", s3.list_objects_v2, Bucket="images", ContinuationToken="?")
    for key in wanted:
        assert s3.get_object(Bucket="images", Key=key)["Body"].read() in (b"x", b"yy")
    answer = s3.delete_objects(Bucket="images", Delete={"Objects": [{"Key": key} for key in wanted]})
    assert [line["Key"] for line in answer["Deleted"]] == wanted and "Errors" not in answer
    assert s3.list_objects_v2(Bucket="images", Prefix="list/")["KeyCount"] == 0


def copies(s3):
    source = {"Bucket": "images", "Key": "a/1.jpg"}
    copied = s3.copy_object(Bucket="images", Key="copy é", CopySource=source)
    assert copied["CopyObjectResult"]["ETag"] == '"5d41402abc4b2a76b9719d911017c592"'
    s3.copy_object(Bucket="images", Key="copy é", CopySource=source, MetadataDirective="REPLACE",
                   Metadata={"camera": "right"}, ContentType="text/plain")
    told = s3.head_object(Bucket="images", Key="copy é")
    assert told["Metadata"] == {"camera": "right"} and told["ContentType"] == "text/plain", told
    refused("NoSuchKey", s3.copy_object, Bucket="images", Key="x", CopySource="images/nothing")
    refused("InvalidRequest", s3.copy_object, Bucket="images", Key="a/1.jpg", CopySource=source)
    s3.delete_object(Bucket="images", Key="copy é")
    s3.delete_object(Bucket="images", Key="copy é")


def multipart(s3):
    parts = [bytes([number]) * (5 * MIB) for number in (1, 2)] + [b"end"]
    here = {"Bucket": "images", "Key": "multi part"}
    upload = s3.create_multipart_upload(Metadata={"camera": "left"}, ChecksumAlgorithm="CRC32", **here)["UploadId"]
    sent = []
    for number, part in enumerate(parts, 1):
        answer = s3.upload_part(PartNumber=number, UploadId=upload, Body=part, ChecksumAlgorithm="CRC32", **here)
        assert answer["ETag"] == '"' + hashlib.md5(part).hexdigest() + '"'
        sent.append({"PartNumber": number, "ETag": answer["ETag"], "ChecksumCRC32": answer["ChecksumCRC32"]})
    refused("404", s3.head_object, **here)
    listed = s3.list_parts(UploadId=upload, MaxParts=2, **here)
    assert [part["Size"] for part in listed["Parts"]] == [5 * MIB, 5 * MIB] and listed["IsTruncated"]
    rest = s3.list_parts(UploadId=upload, PartNumberMarker=listed["NextPartNumberMarker"], **here)
    assert [part["PartNumber"] for part in rest["Parts"]] == [3] and not rest["IsTruncated"]
    assert [line["Key"] for line in s3.list_multipart_uploads(Bucket="images")["Uploads"]] == ["multi part"]

    def complete(chosen):
        return s3.complete_multipart_upload(UploadId=upload, MultipartUpload={"Parts": chosen}, **here)

    refused("InvalidPartOrder", complete, sent[::-1])
    refused("InvalidPart", complete, [{"PartNumber": 9, "ETag": '"0"'}])
    refused("InvalidPart", complete, [{"PartNumber": 1, "ETag": sent[1]["ETag"]}])
    refused("EntityTooSmall", complete, [sent[0], sent[2], {"PartNumber": 4, "ETag": sent[2]["ETag"]}])
    done = complete(sent)
    digest = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest()
    assert done["ETag"] == f'"{digest}-3"' and done["ChecksumCRC32"].endswith("-3"), done
    told = s3.get_object(**here)
    assert told["Body"].read() == b"".join(parts) and told["Metadata"] == {"camera": "left"}
    assert told["ETag"] == done["ETag"]
    refused("NoSuchUpload", complete, sent)
    refused("NoSuchUpload", s3.upload_part, PartNumber=1, UploadId="../../x", Body=b"x", **here)

    here = {"Bucket": "images", "Key": "full"}
    whole = base64.b64encode(zlib.crc32(b"".join(parts)).to_bytes(4, "big")).decode()
    for checksum, code in (("AAAAAA==", "BadDigest"), (whole, None)):
        upload = s3.create_multipart_upload(ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT", **here)["UploadId"]
        sent = [{"PartNumber": number, "ETag": s3.upload_part(PartNumber=number, UploadId=upload, Body=part, **here)["ETag"]}
                for number, part in enumerate(parts, 1)]
        finish = {"UploadId": upload, "MultipartUpload": {"Parts": sent}, "ChecksumCRC32": checksum, **here}
        if code:
            refused(code, s3.complete_multipart_upload, **finish)
            s3.abort_multipart_upload(UploadId=upload, **here)
        else:
            s3.complete_multipart_upload(**finish)
    told = s3.head_object(ChecksumMode="ENABLED", **here)
    assert told["ChecksumCRC32"] == whole and told["ChecksumType"] == "FULL_OBJECT", told

    upload = s3.create_multipart_upload(Bucket="images", Key="copied")["UploadId"]
    first = s3.upload_part_copy(Bucket="images", Key="copied", UploadId=upload, PartNumber=1,
                                CopySource={"Bucket": "images", "Key": "multi part"},
                                CopySourceRange=f"bytes=1-{5 * MIB}")
    s3.complete_multipart_upload(Bucket="images", Key="copied", UploadId=upload, MultipartUpload={
        "Parts": [{"PartNumber": 1, "ETag": first["CopyPartResult"]["ETag"]}]})
    assert s3.get_object(Bucket="images", Key="copied")["Body"].read() == b"".join(parts)[1:5 * MIB + 1]

    upload = s3.create_multipart_upload(Bucket="images", Key="given up")["UploadId"]
    s3.upload_part(Bucket="images", Key="given up", UploadId=upload, PartNumber=1, Body=b"x")
    s3.abort_multipart_upload(Bucket="images", Key="given up", UploadId=upload)
    refused("NoSuchUpload", s3.abort_multipart_upload, Bucket="images", Key="given up", UploadId=upload)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket="images")

    content = b"".join(number.to_bytes(4, "big") for number in range(5 * MIB))
    config = TransferConfig(multipart_threshold=6 * MIB, multipart_chunksize=6 * MIB)
    s3.upload_fileobj(io.BytesIO(content), "images", "transfer", Config=config)
    back = io.BytesIO()
    s3.download_fileobj("images", "transfer", back, Config=config)
    assert back.getvalue() == content


def encryption(s3):
    put = s3.put_object(Bucket="images", Key="secret", Body=b"secret" * 20000,
                        ServerSideEncryption="aws:kms", SSEKMSKeyId="alias/line-1")
    assert put["ServerSideEncryption"] == "aws:kms" and put["SSEKMSKeyId"] == "line-1", put
    got = s3.get_object(Bucket="images", Key="secret", Range="bytes=65535-65541")
    assert got["Body"].read() == (b"secret" * 20000)[65535:65542] and got["SSEKMSKeyId"] == "line-1"
    refused("KMS.NotFoundException", s3.put_object, Bucket="images", Key="x", Body=b"x",
            ServerSideEncryption="aws:kms", SSEKMSKeyId="alias/line-9")
    refused("InvalidArgument", s3.put_object, Bucket="images", Key="x", Body=b"x", ServerSideEncryption="AES256")


def rights(url, s3):
    s3.put_object(Bucket="images", Key="shared/1", Body=b"shared")
    reader = client(url, "AKIAREAD")
    assert reader.get_object(Bucket="images", Key="shared/1")["Body"].read() == b"shared"
    refused("AccessDenied", reader.get_object, Bucket="images", Key="a/1.jpg")
    refused("AccessDenied", reader.put_object, Bucket="images", Key="shared/1", Body=b"x")
    refused("AccessDenied", reader.copy_object, Bucket="images", Key="shared/2", CopySource="images/shared/1")
    refused("AccessDenied", reader.list_buckets)
    answer = reader.delete_objects(Bucket="images", Delete={"Objects": [{"Key": "shared/1"}]})
    assert answer["Errors"][0]["Code"] == "AccessDenied" and "Deleted" not in answer, answer
    assert reader.list_objects_v2(Bucket="images", Prefix="shared/")["KeyCount"] == 1
    refused("InvalidAccessKeyId", client(url, "AKIAGONE").list_buckets)
    refused("SignatureDoesNotMatch", client(url, secret="wrong").list_buckets)
    refused("NotImplemented", s3.get_bucket_acl, Bucket="images")

    link = s3.generate_presigned_url("get_object", Params={"Bucket": "images", "Key": "shared/1"}, ExpiresIn=60)
    assert urllib.request.urlopen(link).read() == b"shared"
    try:
        urllib.request.urlopen(link.replace("shared/1", "a/1.jpg"))
        raise AssertionError("a changed link is refused")
    except urllib.error.HTTPError as error:
        assert error.code == 403, error


def end(s3):
    refused("BucketNotEmpty", s3.delete_bucket, Bucket="images")
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket="images"):
        s3.delete_objects(Bucket="images", Delete={
            "Objects": [{"Key": line["Key"]} for line in page["Contents"]], "Quiet": True})
    s3.delete_bucket(Bucket="images")
    assert s3.list_buckets()["Buckets"] == []


def program(url, _work):
    s3 = client(url)
    buckets(s3)
    objects(s3)
    ranges_and_conditions(s3)
    checksums(s3)
    listings(s3)
    copies(s3)
    multipart(s3)
    encryption(s3)
    rights(url, s3)
    end(s3)


run(program)
