"""boto3 over buckets with versions: what stays, what comes back, what is told of it, and that a restart changes none of it."""

import json
import sys
import urllib.error
import urllib.request

from boto3.s3.transfer import TransferConfig
from common import REGION, client, refused, run

MIB = 1024 * 1024
HERE = {"Bucket": "kept", "Key": "a/1.jpg"}


def restarted():
    print(json.dumps("restart"), flush=True)
    return client(json.loads(sys.stdin.readline()))


def read(s3, **members):
    return s3.get_object(**{**HERE, **members})["Body"].read()


def lines(s3, size=1000, **members):
    """All versions and markers page by page, in the order of the listing."""
    found = []
    for page in s3.get_paginator("list_object_versions").paginate(
            Bucket="kept", PaginationConfig={"PageSize": size}, **members):
        told = [(line["Key"], line["VersionId"], line["IsLatest"], "ETag" in line)
                for line in page.get("Versions", []) + page.get("DeleteMarkers", [])]
        assert len(told) + len(page.get("CommonPrefixes", [])) <= size, page
        found += told + [(line["Prefix"],) for line in page.get("CommonPrefixes", [])]
    return found


def enabling(s3):
    s3.create_bucket(Bucket="kept", CreateBucketConfiguration={"LocationConstraint": REGION})
    assert "Status" not in s3.get_bucket_versioning(Bucket="kept")
    before = s3.put_object(Body=b"before", Metadata={"camera": "left"}, **HERE)
    assert "VersionId" not in before and "VersionId" not in s3.head_object(**HERE)
    assert lines(s3) == [("a/1.jpg", "null", True, True)]
    refused("NoSuchBucket", s3.put_bucket_versioning, Bucket="nothing", VersioningConfiguration={"Status": "Enabled"})
    refused("NoSuchBucket", s3.get_bucket_versioning, Bucket="nothing")
    refused("MalformedXML", s3.put_bucket_versioning, Bucket="kept", VersioningConfiguration={"Status": "Perhaps"})
    s3.put_bucket_versioning(Bucket="kept", VersioningConfiguration={"Status": "Enabled"})
    assert s3.get_bucket_versioning(Bucket="kept")["Status"] == "Enabled"
    assert s3.head_object(**HERE)["VersionId"] == "null"


def versions(s3):
    ids = []
    for content, more in ((b"one", {"ContentType": "image/jpeg", "Metadata": {"shift": "1"}, "ChecksumAlgorithm": "SHA256"}),
                          (b"two", {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "line-1"}), (b"three", {})):
        put = s3.put_object(Body=content, **more, **HERE)
        ids.append(put["VersionId"])
        assert s3.head_object(**HERE)["VersionId"] == ids[-1]
    assert len(set(ids)) == 3 and "null" not in ids, ids

    s3 = restarted()
    assert s3.get_bucket_versioning(Bucket="kept")["Status"] == "Enabled"
    assert [read(s3, VersionId=version) for version in ["null", *ids]] == [b"before", b"one", b"two", b"three"]
    assert read(s3) == b"three" and read(s3, VersionId=ids[1], Range="bytes=1-") == b"wo"
    first = s3.get_object(VersionId=ids[0], ChecksumMode="ENABLED", **HERE)
    assert first["ContentType"] == "image/jpeg" and first["Metadata"] == {"shift": "1"} and "ChecksumSHA256" in first
    assert first["VersionId"] == ids[0]
    assert s3.head_object(VersionId=ids[1], **HERE)["SSEKMSKeyId"] == "line-1"
    assert s3.head_object(VersionId="null", **HERE)["Metadata"] == {"camera": "left"}
    for wrong in ("3", "0" * 32, "../state"):
        refused("NoSuchVersion", s3.get_object, VersionId=wrong, **HERE)
        refused("404", s3.head_object, VersionId=wrong, **HERE)
        refused("NoSuchVersion", s3.copy_object, Bucket="kept", Key="copy",
                CopySource={**HERE, "VersionId": wrong})
    refused("NoSuchVersion", s3.delete_object, VersionId="3", **HERE)
    wanted = [("a/1.jpg", version, version == ids[2], True) for version in [*ids[::-1], "null"]]
    for size in (1, 2, 3, 4, 5, 1000):
        assert lines(s3, size) == wanted, (size, lines(s3, size))
    assert [line["Key"] for line in s3.list_objects_v2(Bucket="kept")["Contents"]] == ["a/1.jpg"]
    return s3, ids


def deleting_and_restoring(s3, ids):
    marker = s3.delete_object(**HERE)
    assert marker["DeleteMarker"] and marker["VersionId"] not in ids, marker
    marker = marker["VersionId"]
    told = refused("NoSuchKey", s3.get_object, **HERE)["ResponseMetadata"]["HTTPHeaders"]
    assert told["x-amz-delete-marker"] == "true" and told["x-amz-version-id"] == marker, told
    told = refused("404", s3.head_object, **HERE)["ResponseMetadata"]["HTTPHeaders"]
    assert told["x-amz-delete-marker"] == "true" and told["x-amz-version-id"] == marker, told
    told = refused("MethodNotAllowed", s3.get_object, VersionId=marker, **HERE)["ResponseMetadata"]
    assert told["HTTPStatusCode"] == 405 and told["HTTPHeaders"]["allow"] == "DELETE", told
    refused("405", s3.head_object, VersionId=marker, **HERE)
    assert s3.list_objects_v2(Bucket="kept")["KeyCount"] == 0
    assert s3.list_objects_v2(Bucket="kept", Delimiter="/")["KeyCount"] == 0
    assert lines(s3, 2)[0] == ("a/1.jpg", ids[2], False, True)
    assert ("a/1.jpg", marker, True, False) in lines(s3)
    refused("BucketNotEmpty", s3.delete_bucket, Bucket="kept")
    refused("NoSuchKey", s3.copy_object, Bucket="kept", Key="copy", CopySource=HERE)

    s3 = restarted()
    refused("NoSuchKey", s3.get_object, **HERE)
    again = s3.delete_object(VersionId=marker, **HERE)
    assert again["DeleteMarker"] and again["VersionId"] == marker, again
    assert read(s3) == b"three" and s3.head_object(**HERE)["VersionId"] == ids[2]
    gone = s3.delete_object(VersionId=ids[2], **HERE)
    assert gone["VersionId"] == ids[2] and "DeleteMarker" not in gone, gone
    s3.delete_object(VersionId=ids[2], **HERE)
    assert read(s3) == b"two" and s3.head_object(**HERE)["VersionId"] == ids[1]
    refused("NoSuchVersion", s3.get_object, VersionId=ids[2], **HERE)
    s3.delete_object(VersionId=ids[0], **HERE)
    assert lines(s3) == [("a/1.jpg", ids[1], True, True), ("a/1.jpg", "null", False, True)]
    return s3


def copies_and_parts(s3):
    copied = s3.copy_object(CopySource={**HERE, "VersionId": "null"}, **HERE)
    assert copied["CopySourceVersionId"] == "null" and copied["VersionId"] == s3.head_object(**HERE)["VersionId"]
    assert read(s3) == b"before" and s3.head_object(**HERE)["Metadata"] == {"camera": "left"}

    there = {"Bucket": "kept", "Key": "parts"}
    ids = []
    for content in (b"1" * 5 * MIB, b"2" * 5 * MIB):
        upload = s3.create_multipart_upload(**there)["UploadId"]
        parts = [{"PartNumber": number, "ETag": s3.upload_part(PartNumber=number, UploadId=upload, Body=part, **there)["ETag"]}
                 for number, part in enumerate((content, b"end"), 1)]
        done = s3.complete_multipart_upload(UploadId=upload, MultipartUpload={"Parts": parts}, **there)
        ids.append(done["VersionId"])
    assert s3.get_object(VersionId=ids[0], **there)["Body"].read() == b"1" * 5 * MIB + b"end"
    assert s3.head_object(**there)["VersionId"] == ids[1]

    upload = s3.create_multipart_upload(Bucket="kept", Key="copied")["UploadId"]
    part = s3.upload_part_copy(Bucket="kept", Key="copied", UploadId=upload, PartNumber=1,
                               CopySource={**there, "VersionId": ids[0]}, CopySourceRange="bytes=0-2")
    assert part["CopySourceVersionId"] == ids[0]
    s3.complete_multipart_upload(Bucket="kept", Key="copied", UploadId=upload, MultipartUpload={
        "Parts": [{"PartNumber": 1, "ETag": part["CopyPartResult"]["ETag"]}]})
    assert s3.get_object(Bucket="kept", Key="copied")["Body"].read() == b"111"
    config = TransferConfig(multipart_threshold=6 * MIB, multipart_chunksize=6 * MIB)
    s3.copy({**there, "VersionId": ids[0]}, "kept", "transferred", Config=config)
    assert s3.get_object(Bucket="kept", Key="transferred")["Body"].read(3) == b"111"


def suspending(s3):
    there = {"Bucket": "kept", "Key": "b/suspended"}
    one = s3.put_object(Body=b"one", **there)["VersionId"]
    s3.put_bucket_versioning(Bucket="kept", VersioningConfiguration={"Status": "Suspended"})
    s3 = restarted()
    assert s3.get_bucket_versioning(Bucket="kept")["Status"] == "Suspended"
    for content in (b"two", b"three"):
        assert s3.put_object(Body=content, **there)["VersionId"] == "null"
    wanted = [("b/suspended", "null", True, True), ("b/suspended", one, False, True)]
    assert lines(s3, Prefix="b/") == wanted
    assert s3.get_object(VersionId="null", **there)["Body"].read() == b"three"
    marker = s3.delete_object(**there)
    assert marker["DeleteMarker"] and marker["VersionId"] == "null", marker
    assert set(lines(s3, Prefix="b/")) == {("b/suspended", "null", True, False), ("b/suspended", one, False, True)}
    s3.delete_object(VersionId="null", **there)
    assert s3.get_object(**there)["Body"].read() == b"one"
    s3.put_bucket_versioning(Bucket="kept", VersioningConfiguration={"Status": "Enabled"})
    return s3


def listings(s3):
    keys = ["list/a", "list/a/b", "list/b/1", "list/b/2", "list/c", "list/ä ö+&", "list/new\nline"]
    wanted = []
    for key in keys:
        ids = [s3.put_object(Bucket="kept", Key=key, Body=b"x")["VersionId"] for _ in range(3)]
        if key == "list/b/1":
            ids.append(s3.delete_object(Bucket="kept", Key=key)["VersionId"])
        wanted.append((key, ids[::-1]))
    wanted.sort(key=lambda line: line[0].encode())
    flat = [(key, version) for key, ids in wanted for version in ids]
    for size in (1, 2, 7, 1000):
        told = lines(s3, size, Prefix="list/")
        assert sorted(line[:2] for line in told) == sorted(flat), (size, told)
        assert sum(line[2] for line in told) == len(keys)
        told = lines(s3, size, Prefix="list/", Delimiter="/")
        assert [line[0] for line in told if len(line) == 1] == ["list/a/", "list/b/"], (size, told)
        assert len(told) == 2 + 4 * 3, (size, told)
    page = s3.list_object_versions(Bucket="kept", Prefix="list/", KeyMarker="list/a", VersionIdMarker=wanted[0][1][1],
                                   MaxKeys=2)
    assert [(line["Key"], line["VersionId"]) for line in page["Versions"]] == [
        ("list/a", wanted[0][1][2]), ("list/a/b", wanted[1][1][0])], page
    assert page["IsTruncated"] and page["NextKeyMarker"] == "list/a/b", page
    page = s3.list_object_versions(Bucket="kept", KeyMarker="list/a/b", Prefix="list/", MaxKeys=1)
    assert page["DeleteMarkers"][0]["Key"] == "list/b/1" and "Versions" not in page, page
    assert not s3.list_object_versions(Bucket="kept", MaxKeys=0)["IsTruncated"]
    refused("InvalidArgument", s3.list_object_versions, Bucket="kept", VersionIdMarker="null")
    refused("NoSuchBucket", s3.list_object_versions, Bucket="nothing")


def rights(s3, url):
    there = {"Bucket": "kept", "Key": "shared/1"}
    old = s3.put_object(Body=b"old", **there)["VersionId"]
    s3.put_object(Body=b"new", **there)
    reader = client(url, "AKIAREAD")
    assert reader.get_object(**there)["Body"].read() == b"new"
    refused("AccessDenied", reader.get_object, VersionId=old, **there)
    refused("AccessDenied", reader.get_object, VersionId="null", **there)
    refused("403", reader.head_object, VersionId=old, **there)
    refused("AccessDenied", reader.copy_object, Bucket="kept", Key="x", CopySource={**there, "VersionId": old})
    refused("AccessDenied", reader.delete_object, VersionId=old, **there)
    refused("AccessDenied", reader.list_object_versions, Bucket="kept")
    refused("AccessDenied", reader.get_bucket_versioning, Bucket="kept")
    refused("AccessDenied", reader.put_bucket_versioning, Bucket="kept", VersioningConfiguration={"Status": "Enabled"})
    answer = reader.delete_objects(Bucket="kept", Delete={"Objects": [{**{"Key": "shared/1"}, "VersionId": old}]})
    assert answer["Errors"][0]["Code"] == "AccessDenied" and answer["Errors"][0]["VersionId"] == old, answer
    assert client(url, "AKIAOLD").get_object(VersionId=old, **there)["Body"].read() == b"old"
    link = reader.generate_presigned_url("get_object", Params={"VersionId": old, **there}, ExpiresIn=60)
    for written in (link, link.replace("versionId=", "version%49d=")):
        try:
            urllib.request.urlopen(written)
            raise AssertionError("a version is refused however it is written")
        except urllib.error.HTTPError as error:
            assert error.code == 403, error


def end(s3):
    """As programs empty a bucket: each page is deleted before the next one is asked for."""
    answer = s3.delete_objects(Bucket="kept", Delete={"Objects": [
        {"Key": "list/c"}, {"Key": "a/1.jpg", "VersionId": "null"}, {"Key": "a/1.jpg", "VersionId": "wrong"}]})
    told = {line["Key"]: line for line in answer["Deleted"]}
    assert told["list/c"]["DeleteMarker"] and told["list/c"]["DeleteMarkerVersionId"], answer
    assert told["a/1.jpg"]["VersionId"] == "null" and "DeleteMarker" not in told["a/1.jpg"], answer
    assert answer["Errors"][0]["Code"] == "NoSuchVersion" and answer["Errors"][0]["VersionId"] == "wrong", answer
    marker = {"Key": "list/c", "VersionId": told["list/c"]["DeleteMarkerVersionId"]}
    answer = s3.delete_objects(Bucket="kept", Delete={"Objects": [marker]})
    assert answer["Deleted"][0]["DeleteMarker"] and answer["Deleted"][0]["VersionId"] == marker["VersionId"], answer

    for page in s3.get_paginator("list_object_versions").paginate(Bucket="kept", PaginationConfig={"PageSize": 2}):
        objects = [{"Key": line["Key"], "VersionId": line["VersionId"]}
                   for line in page.get("Versions", []) + page.get("DeleteMarkers", [])]
        assert "Errors" not in s3.delete_objects(Bucket="kept", Delete={"Objects": objects})
    assert lines(s3) == []
    s3.delete_bucket(Bucket="kept")
    s3.create_bucket(Bucket="kept", CreateBucketConfiguration={"LocationConstraint": REGION})
    assert "Status" not in s3.get_bucket_versioning(Bucket="kept")
    s3.delete_bucket(Bucket="kept")


def program(url):
    s3 = client(url)
    enabling(s3)
    s3, ids = versions(s3)
    s3 = deleting_and_restoring(s3, ids)
    copies_and_parts(s3)
    s3 = suspending(s3)
    listings(s3)
    rights(s3, s3.meta.endpoint_url)
    end(s3)


run(program)
