"""The whole life of a project, as a program for the old service would live it.

Arguments: address of the API, of S3, region, folder with `train.manifest` and `test/` pictures (and `test.manifest` where
there is one), project, access key, its secret, and what calls: `boto3`, or `aws` for the command line. Takes orders a line; answers each with what it saw.
"""

import json
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from aws_cli import AwsCli

api, s3_address, region, folder, project, key, secret, caller = sys.argv[1:9]
folder = Path(folder)
keys = dict(region_name=region, aws_access_key_id=key, aws_secret_access_key=secret)
quick = Config(retries={"mode": "standard", "total_max_attempts": 2})


def client(region=region, key=key, secret=secret):
    if caller == "aws":
        return AwsCli(api, region, key, secret)
    keys = dict(region_name=region, aws_access_key_id=key, aws_secret_access_key=secret)
    return boto3.client("lookoutvision", endpoint_url=api, config=quick, **keys)


lookout = client()
s3 = boto3.client("s3", endpoint_url=s3_address, **keys)
BUCKET = f"{project}-pictures"


def until(ask, done):
    deadline = time.time() + 600
    while True:
        answer = ask()
        if answer["Status"] not in ("TRAINING", "CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "STARTING_HOSTING", "STOPPING_HOSTING", "CREATED", "RUNNING"):
            assert answer["Status"] in done, answer
            return answer
        assert time.time() < deadline, answer
        time.sleep(0.1)


def dataset(kind):
    return lookout.describe_dataset(ProjectName=project, DatasetType=kind)["DatasetDescription"]


def model(version="1"):
    return lookout.describe_model(ProjectName=project, ModelVersion=version)["ModelDescription"]


def refused(call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        details = error.response["Error"]
        return [details["Code"], status, error.response.get("ResourceType"), details["Message"]]
    return None


def bucket(order):
    s3.create_bucket(Bucket=BUCKET)
    return BUCKET


def upload(order):
    lines = {}
    for kind in ("train", "test"):
        manifest = folder / f"{kind}.manifest"
        if not manifest.exists():
            continue
        written = []
        for line in manifest.read_text().splitlines():
            entry = json.loads(line)
            for name in ("source-ref", "anomaly-mask-ref"):
                if name in entry:
                    s3.upload_file(str(folder / entry[name]), BUCKET, entry[name])
                    entry[name] = f"s3://{BUCKET}/{entry[name]}"
            written.append(json.dumps(entry))
        s3.put_object(Bucket=BUCKET, Key=f"{kind}.manifest", Body="\n".join(written).encode())
        lines[kind] = len(written)
    return lines


def create(order):
    made = lookout.create_project(ProjectName=project)["ProjectMetadata"]
    assert made["ProjectName"] == project and made["CreationTimestamp"].tzinfo, made
    assert project in [one["ProjectName"] for one in lookout.list_projects()["Projects"]]
    seen = {"arn": made["ProjectArn"]}
    for kind in ("train", "test"):
        if not (folder / f"{kind}.manifest").exists():
            continue
        source = {"GroundTruthManifest": {"S3Object": {"Bucket": BUCKET, "Key": f"{kind}.manifest"}}}
        metadata = lookout.create_dataset(ProjectName=project, DatasetType=kind, DatasetSource=source)["DatasetMetadata"]
        assert metadata["Status"] == "CREATE_IN_PROGRESS", metadata
        whole = until(lambda: dataset(kind), ["CREATE_COMPLETE"])
        assert whole["StatusMessage"] and whole["LastUpdatedTimestamp"], whole
        seen[kind] = whole["ImageStats"]
    described = lookout.describe_project(ProjectName=project)["ProjectDescription"]
    seen["datasets"] = [one["DatasetType"] for one in described["Datasets"]]
    return seen


def versions(order):
    """A manifest that was written over: the data set is made from the version that is asked for."""
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    good = s3.get_object(Bucket=BUCKET, Key="train.manifest")["Body"].read()
    put = [s3.put_object(Bucket=BUCKET, Key="kept.manifest", Body=body)["VersionId"] for body in (good, b"no manifest")]
    other = f"{project}-versions"
    lookout.create_project(ProjectName=other)
    seen = []
    for version, kind in ((put[0], "train"), (put[1], "test"), ("0" * 32, "test"), (None, "test")):
        source = {"Bucket": BUCKET, "Key": "kept.manifest"} | ({"VersionId": version} if version else {})
        lookout.create_dataset(
            ProjectName=other, DatasetType=kind, DatasetSource={"GroundTruthManifest": {"S3Object": source}}
        )
        described = until(
            lambda: lookout.describe_dataset(ProjectName=other, DatasetType=kind)["DatasetDescription"],
            ["CREATE_COMPLETE", "CREATE_FAILED"],
        )
        seen.append([described["Status"], described["StatusMessage"], described.get("ImageStats", {}).get("Total")])
        if kind == "test":
            lookout.delete_dataset(ProjectName=other, DatasetType=kind)
    return seen


def entries(order):
    def listed(**filters):
        pages = lookout.get_paginator("list_dataset_entries").paginate(
            ProjectName=project, DatasetType="train", PaginationConfig={"PageSize": 7}, **filters
        )
        return [entry for page in pages for entry in page["DatasetEntries"]]

    everything = listed()
    assert len(everything) == len(set(everything))
    first = json.loads(everything[0])
    tomorrow = datetime.now(timezone.utc) + timedelta(days=1)
    counts = {
        "all": len(everything),
        "normal": len(listed(AnomalyClass="normal")),
        "anomaly": len(listed(AnomalyClass="anomaly")),
        "labeled": len(listed(Labeled=True)),
        "unlabeled": len(listed(Labeled=False)),
        "one": len(listed(SourceRefContains=first["source-ref"].split("/")[-1])),
        "before": len(listed(BeforeCreationDate=tomorrow)),
        "after": len(listed(AfterCreationDate=tomorrow)),
    }
    # A picture that is there loses its class, and one that is not there comes.
    first_without = {"source-ref": first["source-ref"]}
    new = {"source-ref": f"s3://{BUCKET}/not-labelled.jpg"}
    changes = "\n".join(json.dumps(one) for one in (first_without, new)).encode()
    assert lookout.update_dataset_entries(ProjectName=project, DatasetType="train", Changes=changes)["Status"] == "UPDATE_IN_PROGRESS"
    updated = until(lambda: dataset("train"), ["UPDATE_COMPLETE"])
    counts["updated"] = updated["ImageStats"]
    changed = listed()
    assert json.loads(changed[0]) == first_without and json.loads(changed[-1]) == new, changed[-1]
    lookout.update_dataset_entries(ProjectName=project, DatasetType="train", Changes=everything[0].encode())
    until(lambda: dataset("train"), ["UPDATE_COMPLETE"])
    return counts


def train(order):
    made = lookout.create_model(
        ProjectName=project,
        Description="first",
        OutputConfig={"S3Location": {"Bucket": BUCKET, "Prefix": "results/of-"}},
        Tags=[{"Key": "line", "Value": "press 1"}],
    )["ModelMetadata"]
    assert (made["Status"], made["ModelVersion"]) == ("TRAINING", "1"), made
    said = set()

    def ask():
        now = model()
        said.add(now["StatusMessage"])
        return now

    trained = until(ask, ["TRAINED"])
    result = json.loads(s3.get_object(**trained["EvaluationResult"])["Body"].read())
    manifest = s3.get_object(**trained["EvaluationManifest"])["Body"].read().decode().splitlines()
    assert trained["EvaluationResult"]["Key"] == f"results/of-EvaluationResult-{project}-1.json", trained
    assert len(said) > 2, said
    listed = [one["ModelVersion"] for one in lookout.list_models(ProjectName=project)["Models"]]
    return {
        "performance": trained["Performance"],
        "arn": made["ModelArn"],
        "evaluated": len(manifest),
        "evaluation": sorted(result),
        "models": listed,
        "latest": model("latest")["ModelVersion"],
        "ended": trained["EvaluationEndTimestamp"].tzinfo is not None,
    }


def trained(order):
    return {"Performance": until(model, ["TRAINED"])["Performance"]}


def host(order):
    lookout.start_model(ProjectName=project, ModelVersion="1", MinInferenceUnits=1)
    return hosted(order)


def hosted(order):
    return until(model, ["HOSTED"])["Status"]


def detect(order):
    started = lookout.start_model(ProjectName=project, ModelVersion="1", MinInferenceUnits=1, MaxInferenceUnits=2)
    assert started["Status"] == "STARTING_HOSTING", started
    hosted = until(model, ["HOSTED"])
    answers = []
    for path in sorted((folder / "test").iterdir()):
        kind = "image/png" if path.suffix == ".png" else "image/jpeg"
        with open(path, "rb") as picture:
            answer = lookout.detect_anomalies(ProjectName=project, ModelVersion="1", Body=picture, ContentType=kind)
        result = answer["DetectAnomalyResult"]
        assert result["Source"]["Type"] == "direct" and 0 <= result["Confidence"] <= 1, result
        mask = result.get("AnomalyMask", b"")
        answers.append([path.name, result["IsAnomalous"], [one["Name"] for one in result.get("Anomalies", [])], mask[:4].hex()])
    wrong = refused(lookout.detect_anomalies, ProjectName=project, ModelVersion="1", Body=b"no picture", ContentType="image/png")
    deleted = refused(lookout.delete_model, ProjectName=project, ModelVersion="1")
    assert lookout.stop_model(ProjectName=project, ModelVersion="1")["Status"] == "STOPPING_HOSTING"
    stopped = until(model, ["TRAINED"])
    late = refused(lookout.detect_anomalies, ProjectName=project, ModelVersion="1", Body=b"no picture", ContentType="image/png")
    return {
        "units": [hosted["MinInferenceUnits"], hosted["MaxInferenceUnits"], "MinInferenceUnits" in stopped],
        "answers": answers,
        "wrong": wrong,
        "deleted": deleted,
        "late": late,
    }


def package(order):
    component = {
        "ComponentName": "cap-component",
        "ComponentVersion": "1.2.3",
        "TargetPlatform": {"Os": "LINUX", "Arch": "X86_64"},
        "S3OutputLocation": {"Bucket": BUCKET, "Prefix": "components/"},
    }
    name = lookout.start_model_packaging_job(
        ProjectName=project, ModelVersion="1", JobName="first", Configuration={"Greengrass": component}, Description="for line 1"
    )["JobName"]
    done = until(
        lambda: lookout.describe_model_packaging_job(ProjectName=project, JobName=name)["ModelPackagingDescription"], ["SUCCEEDED"]
    )
    files = [one["Key"] for one in s3.list_objects_v2(Bucket=BUCKET, Prefix="components/")["Contents"]]
    s3.download_file(BUCKET, "components/cap-component/1.2.3/cap-component.tar", str(folder / "component.tar"))
    listed = lookout.list_model_packaging_jobs(ProjectName=project)["ModelPackagingJobs"]
    return {
        "files": files,
        "output": done["ModelPackagingOutputDetails"]["Greengrass"],
        "listed": [[one["JobName"], one["Status"], one["ModelPackagingMethod"]] for one in listed],
    }


def convert(order):
    def job(name, options):
        component = {
            "ComponentName": "half",
            "ComponentVersion": "2.0.0",
            "TargetPlatform": {"Os": "LINUX", "Arch": "X86_64", "Accelerator": "NVIDIA"},
            "CompilerOptions": options,
            "S3OutputLocation": {"Bucket": BUCKET, "Prefix": "gpu/"},
        }
        lookout.start_model_packaging_job(
            ProjectName=project, ModelVersion="1", JobName=name, Configuration={"Greengrass": component}
        )
        described = until(
            lambda: lookout.describe_model_packaging_job(ProjectName=project, JobName=name)["ModelPackagingDescription"],
            ["SUCCEEDED", "FAILED"],
        )
        return [described["Status"], described["StatusMessage"]]

    options = '{"sm_75": "sm_75", "trt-ver": "7.1.3", "cuda-ver": "10.2", "precision": "fp16", "bound": "%s"}'
    strict = job("strict", options % "0.0001")
    first = job("half", options % "0.1")
    if first[0] == "SUCCEEDED":
        s3.download_file(BUCKET, "gpu/half/2.0.0/half.tar", str(folder / "half.tar"))
    again = job("again", options % "0.1")
    return {"strict": strict, "first": first, "again": again, "refused": refused(lambda: job("wrong", "trt 7"))}


def tags(order):
    arn = model()["ModelArn"]
    before = lookout.list_tags_for_resource(ResourceArn=arn)["Tags"]
    lookout.tag_resource(ResourceArn=arn, Tags=[{"Key": "line", "Value": "press 2"}, {"Key": "stage", "Value": ""}])
    lookout.untag_resource(ResourceArn=arn, TagKeys=["stage", "absent"])
    return [before, lookout.list_tags_for_resource(ResourceArn=arn)["Tags"]]


def errors(order):
    used = dict(ProjectName=project)
    stranger = client(key="AKIANOBODYNOBODYNOBO")
    forger = client(secret=secret[::-1])
    elsewhere = client(region="eu-north-1")
    return {
        "twice": refused(lookout.create_project, **used),
        "name": refused(lookout.create_project, ProjectName="no spaces"),
        "absent": refused(lookout.describe_project, ProjectName="absent"),
        "no model": refused(lookout.describe_model, ModelVersion="77", **used),
        "in use": refused(lookout.delete_project, **used),
        "token": refused(lookout.list_dataset_entries, DatasetType="train", NextToken="bm90IG91cnM=", **used),
        "changes": refused(lookout.update_dataset_entries, DatasetType="train", Changes=b'{"source-ref": 5}', **used),
        "units": refused(lookout.start_model, ModelVersion="1", MinInferenceUnits=3, MaxInferenceUnits=2, **used),
        "stop": refused(lookout.stop_model, ModelVersion="1", **used),
        "bucket": refused(lookout.create_model, OutputConfig={"S3Location": {"Bucket": "no-such-bucket"}}, **used),
        "stranger": refused(stranger.list_projects),
        "forger": refused(forger.list_projects),
        "elsewhere": refused(elsewhere.list_projects),
    }


def delete_model(order):
    return refused(lookout.delete_model, ProjectName=project, ModelVersion="1")


def delete(order):
    lookout.delete_model(ProjectName=project, ModelVersion="1")
    deadline = time.time() + 60
    while refused(model) is None:
        assert time.time() < deadline
        time.sleep(0.1)
    for kind in lookout.describe_project(ProjectName=project)["ProjectDescription"]["Datasets"]:
        lookout.delete_dataset(ProjectName=project, DatasetType=kind["DatasetType"])
    lookout.delete_project(ProjectName=project)
    return [one["ProjectName"] for one in lookout.list_projects()["Projects"]]


for line in sys.stdin:
    order = json.loads(line)
    try:
        answer = globals()[order["do"]](order)
        print(json.dumps({"answer": answer}), flush=True)
    except Exception as error:  # told to the test, which fails with it
        print(json.dumps({"failed": f"{type(error).__name__}: {error}"}), flush=True)
