//! What a call of an operation needs to be allowed: actions on resources, as policies name them.

use linewarden_access::Context;
use linewarden_contract::{Input, Operation, text};
use serde_json::Value;

use super::SERVICE;
use crate::services::Naming;

/// One action on one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) action: String,
    /// An ARN, or `*` where the action is on none.
    pub(super) resource: String,
    /// Whether it may have tags: models have.
    pub(super) has_tags: bool,
}

/// Everything that the call needs: its own action, and those on the objects that it makes the service read or write for it.
/// `newest` is the version that `latest` means.
pub(super) fn asks_of(operation: &Operation, input: &Input, naming: &Naming, newest: Option<u64>) -> Vec<Ask> {
    let (resource, has_tags) = resource_of(input, naming, newest);
    let own = Ask { action: format!("{SERVICE}:{}", operation.name()), resource, has_tags };
    let mut asks = vec![own];
    if let Some(manifest) = deep(input, "DatasetSource/GroundTruthManifest/S3Object") {
        let read = if manifest.get("VersionId").is_some() { "s3:GetObjectVersion" } else { "s3:GetObject" };
        asks.extend(of_object(read, manifest, "Key"));
    }
    for written in ["OutputConfig/S3Location", "Configuration/Greengrass/S3OutputLocation"] {
        if let Some(location) = deep(input, written) {
            asks.extend(of_object("s3:PutObject", location, "Prefix"));
        }
    }
    asks
}

/// The tags that the call gives.
pub(super) fn add_request_tags(context: &mut Context, input: &Input) {
    for tag in input.get("Tags").and_then(Value::as_array).into_iter().flatten() {
        let part = |name: &str| tag.get(name).and_then(Value::as_str).unwrap_or_default();
        context.add(&format!("aws:RequestTag/{}", part("Key")), part("Value"));
        context.add("aws:TagKeys", part("Key"));
    }
    for key in input.get("TagKeys").and_then(Value::as_array).into_iter().flatten() {
        context.add("aws:TagKeys", key.as_str().unwrap_or_default());
    }
}

pub(super) fn bucket_arn(bucket: &str, key: Option<&str>) -> String {
    match key {
        Some(key) => format!("arn:aws:s3:::{bucket}/{key}"),
        None => format!("arn:aws:s3:::{bucket}"),
    }
}

/// The resource of the call's own action, and whether it may have tags.
fn resource_of(input: &Input, naming: &Naming, newest: Option<u64>) -> (String, bool) {
    if let Some(arn) = text(input, "ResourceArn") {
        return (arn.to_owned(), true);
    }
    let Some(project) = text(input, "ProjectName") else { return ("*".to_owned(), false) };
    let Some(written) = text(input, "ModelVersion") else { return (naming.project(project), false) };
    match written.parse().ok().or(newest) {
        Some(version) => (naming.model(project, version), true),
        // There is no model yet: who may see some of the project's may be told so.
        None => (format!("arn:aws:{SERVICE}:{}:{}:model/{project}/{written}", naming.region, naming.account), false),
    }
}

fn deep<'i>(input: &'i Input, path: &str) -> Option<&'i Value> {
    let (first, rest) = path.split_once('/')?;
    input.get(first)?.pointer(&format!("/{rest}"))
}

fn of_object(action: &str, location: &Value, key: &str) -> Option<Ask> {
    let part = |name: &str| location.get(name).and_then(Value::as_str);
    let resource = bucket_arn(part("Bucket")?, Some(part(key).unwrap_or_default()));
    Some(Ask { action: action.to_owned(), resource, has_tags: false })
}

#[cfg(test)]
mod tests {
    use linewarden_contract::Contract;
    use serde_json::json;

    use super::*;

    #[test]
    fn every_operation_asks_for_its_action_on_its_resource() {
        let naming = Naming { region: "eu-west-1".to_owned(), account: "123456789012".to_owned() };
        let arn = |rest: &str| format!("arn:aws:lookoutvision:eu-west-1:123456789012:{rest}");
        let asked = |operation: &str, input: Value| -> Vec<(String, String, bool)> {
            let operation = Contract::get().operation(operation).unwrap();
            let asks = asks_of(operation, input.as_object().unwrap(), &naming, Some(7));
            asks.into_iter().map(|ask| (ask.action, ask.resource, ask.has_tags)).collect()
        };
        let own = |name: &str, resource: String, tags| (format!("lookoutvision:{name}"), resource, tags);
        assert_eq!(asked("ListProjects", json!({})), [own("ListProjects", "*".to_owned(), false)]);
        let project = json!({ "ProjectName": "caps" });
        assert_eq!(asked("ListModels", project), [own("ListModels", arn("project/caps"), false)]);
        for (written, version) in [("3", 3), ("latest", 7)] {
            let model = json!({ "ProjectName": "caps", "ModelVersion": written });
            let wanted = [own("DetectAnomalies", arn(&format!("model/caps/{version}")), true)];
            assert_eq!(asked("DetectAnomalies", model), wanted);
        }
        let tagged = json!({ "ResourceArn": arn("model/caps/3") });
        assert_eq!(asked("UntagResource", tagged), [own("UntagResource", arn("model/caps/3"), true)]);
        let manifest = json!({ "ProjectName": "caps", "DatasetSource": { "GroundTruthManifest": { "S3Object": {
            "Bucket": "pictures", "Key": "a/train.manifest" } } } });
        let read = ("s3:GetObject".to_owned(), "arn:aws:s3:::pictures/a/train.manifest".to_owned(), false);
        assert_eq!(asked("CreateDataset", manifest), [own("CreateDataset", arn("project/caps"), false), read]);
        let manifest = json!({ "ProjectName": "caps", "DatasetSource": { "GroundTruthManifest": { "S3Object": {
            "Bucket": "pictures", "Key": "a/train.manifest", "VersionId": "null" } } } });
        let read = ("s3:GetObjectVersion".to_owned(), "arn:aws:s3:::pictures/a/train.manifest".to_owned(), false);
        assert_eq!(asked("CreateDataset", manifest), [own("CreateDataset", arn("project/caps"), false), read]);
        let train = json!({ "ProjectName": "caps", "OutputConfig": { "S3Location": { "Bucket": "out" } } });
        let write = ("s3:PutObject".to_owned(), "arn:aws:s3:::out/".to_owned(), false);
        assert_eq!(asked("CreateModel", train), [own("CreateModel", arn("project/caps"), false), write]);
        let pack = json!({ "ProjectName": "caps", "ModelVersion": "1", "Configuration": { "Greengrass": {
            "S3OutputLocation": { "Bucket": "out", "Prefix": "edge/" } } } });
        let write = ("s3:PutObject".to_owned(), "arn:aws:s3:::out/edge/".to_owned(), false);
        assert_eq!(
            asked("StartModelPackagingJob", pack),
            [own("StartModelPackagingJob", arn("model/caps/1"), true), write]
        );
    }
}
