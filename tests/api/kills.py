"""A client that works while the daemon is killed under it, and then holds the daemon to everything that was acknowledged.

Arguments: folder with `train.manifest` and its pictures, region, access key, secret. Takes an order a line:
`{"do": "connect", "api": address, "s3": address}`, `{"do": "work", "seed": n, "kind": what}`, which goes on until the daemon is
gone, `{"do": "verify"}`, `{"do": "settle"}`.
"""

import hashlib
import json
import random
import sys
import time
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionError, HTTPClientError

folder, region, key, secret = sys.argv[1:5]
folder = Path(folder)
BUCKET = "pictures"
GONE = (ConnectionError, HTTPClientError)
# What the daemon has said yes to.
objects, projects, tags, datasets, models, hosted = {}, set(), {}, {}, {}, {}
# What it was asked and has not answered: it may have been done, or not.
asked = None
rng = random.Random(0)
lookout = s3 = None


def connect(order):
    global lookout, s3
    once = Config(retries={"mode": "standard", "total_max_attempts": 1}, connect_timeout=5, read_timeout=20)
    keys = dict(region_name=region, aws_access_key_id=key, aws_secret_access_key=secret, config=once)
    lookout = boto3.client("lookoutvision", endpoint_url=order["api"], **keys)
    s3 = boto3.client("s3", endpoint_url=order["s3"], **keys)
    return True


def prepare(order):
    """A bucket with pictures and manifest, a trained model, and a project for updates."""
    s3.create_bucket(Bucket=BUCKET)
    lines = []
    for line in (folder / "train.manifest").read_text().splitlines():
        entry = json.loads(line)
        s3.upload_file(str(folder / entry["source-ref"]), BUCKET, entry["source-ref"])
        entry["source-ref"] = f"s3://{BUCKET}/{entry['source-ref']}"
        lines.append(json.dumps(entry))
    s3.put_object(Bucket=BUCKET, Key="train.manifest", Body="\n".join(lines).encode())
    lookout.create_project(ProjectName="base")
    projects.add("base")
    create_dataset("base")
    settled("base")
    create_model("base")
    while model("base", "1")["Status"] == "TRAINING":
        time.sleep(0.1)
    assert model("base", "1")["Status"] == "TRAINED", model("base", "1")
    return len(lines)


def manifest_lines():
    return s3.get_object(Bucket=BUCKET, Key="train.manifest")["Body"].read().decode().splitlines()


def model(project, version):
    return lookout.describe_model(ProjectName=project, ModelVersion=version)["ModelDescription"]


def dataset(project):
    return lookout.describe_dataset(ProjectName=project, DatasetType="train")["DatasetDescription"]


def entries(project):
    pages = lookout.get_paginator("list_dataset_entries").paginate(ProjectName=project, DatasetType="train")
    return [entry for page in pages for entry in page["DatasetEntries"]]


def settled(project):
    while (now := dataset(project))["Status"].endswith("IN_PROGRESS"):
        time.sleep(0.02)
    return now


# --- what is done; each notes what it asks, and what was acknowledged ------------------------------------------------


def put_object():
    global asked
    name, body = f"uploads/{rng.randrange(40)}", rng.randbytes(rng.randrange(1, 300_000))
    asked = ("object", name, hashlib.sha256(body).hexdigest())
    s3.put_object(Bucket=BUCKET, Key=name, Body=body)
    objects[name] = asked[2]


def put_in_parts():
    global asked
    name, part = f"uploads/{rng.randrange(40)}", rng.randbytes(5 << 20)
    asked = ("object", name, hashlib.sha256(part + b"end").hexdigest())
    upload = dict(Bucket=BUCKET, Key=name, UploadId=s3.create_multipart_upload(Bucket=BUCKET, Key=name)["UploadId"])
    parts = [{"PartNumber": 1 + n, "ETag": s3.upload_part(PartNumber=1 + n, Body=body, **upload)["ETag"]} for n, body in enumerate([part, b"end"])]
    s3.complete_multipart_upload(MultipartUpload={"Parts": parts}, **upload)
    objects[name] = asked[2]


def create_project():
    global asked
    name = f"p{len(projects)}-{rng.randrange(1000)}"
    asked = ("project", name)
    lookout.create_project(ProjectName=name)
    projects.add(name)
    return name


def create_dataset(project):
    global asked
    asked = ("dataset", project)
    source = {"GroundTruthManifest": {"S3Object": {"Bucket": BUCKET, "Key": "train.manifest"}}}
    lookout.create_dataset(ProjectName=project, DatasetType="train", DatasetSource=source)
    datasets[project] = {"updates": []}


def update_entries(project):
    """Forty new entries at once: all of them come, or none."""
    global asked
    if settled(project)["Status"] not in ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_FAILED_ROLLBACK_COMPLETE"):
        return
    batch = f"{rng.randrange(1 << 30):x}"
    changes = "\n".join(json.dumps({"source-ref": f"s3://{BUCKET}/{batch}/{n}.png"}) for n in range(40))
    asked = ("update", project, batch)
    lookout.update_dataset_entries(ProjectName=project, DatasetType="train", Changes=changes.encode())
    datasets[project]["updates"].append(batch)


def create_model(project):
    global asked
    asked = ("model", project)
    output = {"S3Location": {"Bucket": BUCKET, "Prefix": "results/"}}
    made = lookout.create_model(ProjectName=project, OutputConfig=output, Tags=[{"Key": "made", "Value": "here"}])["ModelMetadata"]
    models[(project, made["ModelVersion"])] = made["ModelArn"]
    tags[made["ModelArn"]] = "here"


def tag():
    global asked
    arn, value = models[("base", "1")], f"{rng.randrange(1 << 30):x}"
    asked = ("tag", arn, value)
    lookout.tag_resource(ResourceArn=arn, Tags=[{"Key": "made", "Value": value}])
    tags[arn] = value


def start_or_stop():
    global asked
    status = model("base", "1")["Status"]
    if status == "TRAINED":
        asked = ("start",)
        lookout.start_model(ProjectName="base", ModelVersion="1", MinInferenceUnits=1)
        hosted["base"] = True
    elif status == "HOSTED":
        picture = next((folder / "train").iterdir()).read_bytes()
        asked = ("detect",)
        lookout.detect_anomalies(ProjectName="base", ModelVersion="1", Body=picture, ContentType="image/png")
        if rng.random() < 0.3:
            asked = ("stop",)
            lookout.stop_model(ProjectName="base", ModelVersion="1")
            hosted["base"] = False
    time.sleep(0.02)


def upload():
    rng.choice([put_object, put_object, put_object, put_in_parts])()


def update():
    # Not those that models are trained from: the new entries' pictures are not there.
    others = sorted(set(datasets) - {"base"})
    if not others or len(projects) < 40 and rng.random() < 0.3:
        create_dataset(create_project())
    else:
        update_entries(rng.choice(others))
        tag()


def train():
    # One at a time: each is interrupted again and again until the daemon has time for it.
    if all(model(project, version)["Status"] != "TRAINING" for project, version in models):
        create_model("base")
    time.sleep(0.05)


KINDS = {"upload": upload, "update": update, "train": train, "host": start_or_stop}


def work(order):
    global asked, rng
    rng = random.Random(order["seed"])
    count = 0
    while True:
        try:
            KINDS[order["kind"]]()
            asked = None
            count += 1
        except GONE:
            return {"done": count, "asked": asked and asked[0]}
        except ClientError as error:
            # It may refuse while it goes: what is refused was not done.
            if error.response["ResponseMetadata"]["HTTPStatusCode"] < 500:
                raise
            asked = None


# --- what must be so afterwards --------------------------------------------------------------------------------------


def verify(order):
    global asked
    open_question, asked = asked or ("nothing",), None
    kind = open_question[0]
    for name, wanted in objects.items():
        found = hashlib.sha256(s3.get_object(Bucket=BUCKET, Key=name)["Body"].read()).hexdigest()
        other = open_question[2] if kind == "object" and open_question[1] == name else wanted
        assert found in (wanted, other), f"{name} is neither what it was nor what it was to be"
        objects[name] = found
    if kind == "object" and open_question[1] not in objects:
        try:
            found = s3.get_object(Bucket=BUCKET, Key=open_question[1])["Body"].read()
            assert hashlib.sha256(found).hexdigest() == open_question[2], "half an object"
            objects[open_question[1]] = open_question[2]
        except s3.exceptions.NoSuchKey:
            pass
    there = {one["ProjectName"] for page in lookout.get_paginator("list_projects").paginate() for one in page["Projects"]}
    unsure = {open_question[1]} if kind == "project" else set()
    assert projects <= there <= projects | unsure, (projects - there, there - projects)
    projects.update(there)
    if kind == "dataset" and any(one["DatasetType"] == "train" for one in lookout.describe_project(ProjectName=open_question[1])["ProjectDescription"]["Datasets"]):
        datasets[open_question[1]] = {"updates": []}
    whole = len(manifest_lines())
    for project, known in datasets.items():
        now = settled(project)
        found = entries(project)
        assert now["Status"] in ("CREATE_COMPLETE", "UPDATE_COMPLETE") or now["StatusMessage"], now
        if now["Status"] == "CREATE_FAILED":
            assert not found, f"half a data set: {len(found)} entries of one that failed"
            continue
        batches = {json.loads(one)["source-ref"].split("/")[3] for one in found[whole:]}
        unsure = {open_question[2]} if kind == "update" and open_question[1] == project else set()
        known["updates"] += sorted(unsure & batches)
        assert batches == set(known["updates"]), (now, batches, known)
        assert len(found) == whole + 40 * len(batches) == now["ImageStats"]["Total"], (len(found), now)
    versions = {one["ModelVersion"]: one for one in lookout.list_models(ProjectName="base")["Models"]}
    if kind == "model":
        for version, one in versions.items():
            models.setdefault(("base", version), one["ModelArn"])
            tags.setdefault(one["ModelArn"], "here")
    assert set(versions) == {version for _, version in models}, (sorted(versions), models)
    for arn, value in tags.items():
        found = {one["Key"]: one["Value"] for one in lookout.list_tags_for_resource(ResourceArn=arn)["Tags"]}
        other = open_question[2] if kind == "tag" and open_question[1] == arn else value
        assert found["made"] in (value, other), (arn, found)
        tags[arn] = found["made"]
    while (now := model("base", "1"))["Status"] in ("STARTING_HOSTING", "STOPPING_HOSTING"):
        time.sleep(0.02)
    if "base" in hosted and kind not in ("start", "stop"):
        assert now["Status"] == ("HOSTED" if hosted["base"] else "TRAINED"), (now, hosted)
    hosted["base"] = now["Status"] == "HOSTED"
    return {"objects": len(objects), "projects": len(projects), "datasets": len(datasets), "models": len(models)}


def settle(order):
    """Every job ends, with a reason where it failed; what was trained works."""
    seen = {}
    for (project, version), _ in models.items():
        deadline = time.time() + 240
        while (now := model(project, version))["Status"] == "TRAINING":
            assert time.time() < deadline, now
            time.sleep(0.1)
        assert now["Status"] in ("TRAINED", "HOSTED") or now["StatusMessage"], now
        told = now["Status"] if now["Status"] != "TRAINING_FAILED" else now["StatusMessage"]
        seen[told] = seen.get(told, 0) + 1
    return seen


for line in sys.stdin:
    order = json.loads(line)
    try:
        answer = globals()[order["do"]](order)
        print(json.dumps({"answer": answer}), flush=True)
    except Exception as error:  # told to the test, which fails with it
        print(json.dumps({"failed": f"{type(error).__name__}: {error}"}), flush=True)
