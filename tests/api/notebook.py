"""Amazon's notebook helper `lookoutvision`, as its notebooks use it. Arguments: address of the API, of S3, region, a folder with
the pictures `train/*.png` and `test/*.png`, access key, secret.

Says one line of JSON: what it saw.
"""

import contextlib
import json
import os
import sys
import time
from pathlib import Path

api, s3_address, region, folder, key, secret = sys.argv[1:7]
os.environ |= {
    "AWS_ENDPOINT_URL_LOOKOUTVISION": api,
    "AWS_ENDPOINT_URL_S3": s3_address,
    "AWS_DEFAULT_REGION": region,
    "AWS_ACCESS_KEY_ID": key,
    "AWS_SECRET_ACCESS_KEY": secret,
    "MPLBACKEND": "Agg",
}
# It looks once a minute.
sleep, time.sleep = time.sleep, lambda seconds: sleep(min(seconds, 0.2))

import boto3
from lookoutvision.lookoutvision import LookoutForVision
from lookoutvision.manifest import Manifest
from lookoutvision.metrics import Metrics

BUCKET = "notebook-bucket"
KINDS = {"good": "normal", "bad": "anomaly"}
s3 = boto3.client("s3")


def story():
    s3.create_bucket(Bucket=BUCKET)
    for here, there in (("train", "training"), ("test", "validation")):
        for picture in sorted(Path(folder, here).glob("*.png")):
            kind = KINDS[picture.name.split("-")[0]]
            s3.upload_file(str(picture), BUCKET, f"caps/{there}/{kind}/{picture.name}")
    manifests = Manifest(bucket=BUCKET, s3_path="caps/", datasets=["training", "validation"]).push_manifests()
    caps = LookoutForVision(project_name="caps")
    seen = {"arn": caps.create_project(), "manifests": sorted(manifests)}
    seen["datasets"] = {name: made["Status"] for name, made in caps.create_datasets(manifests).items()}
    trained = caps.fit(output_bucket=BUCKET)
    seen["trained"] = [trained["status"], trained["train_datasets"]["ImageStats"], trained["test_datasets"]["ImageStats"]]
    deployed = caps.deploy()
    seen["hosted"] = deployed["model"]["Status"]
    picture = sorted(Path(folder, "test").glob("bad-*.png"))[0]
    seen["bad"] = caps.predict(local_file=str(picture), content_type="image/png")["IsAnomalous"]
    done = caps.batch_predict(
        input_bucket=BUCKET,
        input_prefix="caps/validation/",
        output_bucket=BUCKET,
        output_prefix="predicted/",
        content_type="image/png",
    )
    seen["batch"] = done["predicted_result"]
    seen["predicted"] = {}
    for entry in s3.list_objects_v2(Bucket=BUCKET, Prefix="predicted/")["Contents"]:
        answer = json.loads(s3.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read())
        seen["predicted"][entry["Key"].split("/")[-1]] = answer["IsAnomalous"]
    seen["stopped"] = caps.stop_model()["Status"]
    metrics = Metrics("caps")
    seen["metrics"] = sorted(metrics.describe_model("1").index)
    metrics.compare_models()
    seen["deleted"] = caps.delete_lookoutvision_project("caps").get("Success", False)
    return seen


with contextlib.redirect_stdout(sys.stderr):
    told = story()
print(json.dumps(told), flush=True)
