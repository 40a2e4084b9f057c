//! The policies that are there without a file, by the names that the old service and its neighbours gave them.

use std::sync::{Arc, LazyLock};

use crate::policy::Policy;

/// Allows everything.
pub const ADMINISTRATOR: &str = "AdministratorAccess";

const READ_ONLY: &str = r#"{"Effect": "Allow", "Resource": "*", "Action": [
    "lookoutvision:DescribeDataset", "lookoutvision:DescribeModel", "lookoutvision:DescribeModelPackagingJob",
    "lookoutvision:DescribeProject", "lookoutvision:ListDatasetEntries", "lookoutvision:ListModelPackagingJobs",
    "lookoutvision:ListModels", "lookoutvision:ListProjects", "lookoutvision:ListTagsForResource"]}"#;
const FULL: &str = r#"{"Effect": "Allow", "Resource": "*", "Action": "lookoutvision:*"}"#;
const ALL_BUCKETS: &str = r#"{"Effect": "Allow", "Resource": "*", "Action": "s3:ListAllMyBuckets"}"#;
/// What the old console did with its own bucket. There are no versions of objects here, and no console.
const CONSOLE_BUCKET: &str = r#"{"Effect": "Allow", "Resource": "arn:aws:s3:::lookoutvision-*", "Action": [
    "s3:CreateBucket", "s3:ListBucket", "s3:GetBucketLocation"]},
    {"Effect": "Allow", "Resource": "arn:aws:s3:::lookoutvision-*/*", "Action": [
    "s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]}"#;
const CONSOLE_READ: &str =
    r#"{"Effect": "Allow", "Resource": "arn:aws:s3:::lookoutvision-*/*", "Action": "s3:GetObject"}"#;

static MANAGED: LazyLock<Vec<(&str, Arc<Policy>)>> = LazyLock::new(|| {
    let of = |statements: &[&str]| {
        let document = format!(r#"{{"Version": "2012-10-17", "Statement": [{}]}}"#, statements.join(", "));
        Arc::new(Policy::parse(&document).expect("a test reads these very policies, which are part of the binary"))
    };
    vec![
        (ADMINISTRATOR, of(&[r#"{"Effect": "Allow", "Action": "*", "Resource": "*"}"#])),
        ("AmazonLookoutVisionFullAccess", of(&[FULL])),
        ("AmazonLookoutVisionReadOnlyAccess", of(&[READ_ONLY])),
        ("AmazonLookoutVisionConsoleFullAccess", of(&[FULL, ALL_BUCKETS, CONSOLE_BUCKET])),
        ("AmazonLookoutVisionConsoleReadOnlyAccess", of(&[READ_ONLY, ALL_BUCKETS, CONSOLE_READ])),
        ("AmazonS3FullAccess", of(&[r#"{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}"#])),
        ("AmazonS3ReadOnlyAccess", of(&[r#"{"Effect": "Allow", "Action": ["s3:Get*", "s3:List*"], "Resource": "*"}"#])),
    ]
});

/// The names of all of them.
#[must_use]
pub fn managed_names() -> Vec<&'static str> {
    MANAGED.iter().map(|(name, _)| *name).collect()
}

pub(crate) fn managed(name: &str) -> Option<Arc<Policy>> {
    MANAGED.iter().find(|(known, _)| *known == name).map(|(_, policy)| Arc::clone(policy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Context, Request, weigh};

    #[test]
    fn each_allows_what_its_name_says() {
        const MODEL: &str = "arn:aws:lookoutvision:us-east-1:000000000000:model/a/1";
        const OURS: &str = "arn:aws:s3:::lookoutvision-us-east-1-abc/x";
        const OTHER: &str = "arn:aws:s3:::pictures/x";
        let may = |name: &str, action: &str, resource: &str| {
            let policy = managed(name).unwrap();
            weigh([&*policy], &Request { action, resource, context: &Context::default() }).is_ok()
        };
        // describe, train, read the console's bucket, write it, read another, write another
        let rows = [
            ("AdministratorAccess", [true, true, true, true, true, true]),
            ("AmazonLookoutVisionFullAccess", [true, true, false, false, false, false]),
            ("AmazonLookoutVisionReadOnlyAccess", [true, false, false, false, false, false]),
            ("AmazonLookoutVisionConsoleFullAccess", [true, true, true, true, false, false]),
            ("AmazonLookoutVisionConsoleReadOnlyAccess", [true, false, true, false, false, false]),
            ("AmazonS3FullAccess", [false, false, true, true, true, true]),
            ("AmazonS3ReadOnlyAccess", [false, false, true, false, true, false]),
        ];
        assert_eq!(rows.map(|(name, _)| name).len(), managed_names().len());
        for (name, wanted) in rows {
            let got = [
                may(name, "lookoutvision:DescribeModel", MODEL),
                may(name, "lookoutvision:CreateModel", MODEL),
                may(name, "s3:GetObject", OURS),
                may(name, "s3:PutObject", OURS),
                may(name, "s3:GetObject", OTHER),
                may(name, "s3:PutObject", OTHER),
            ];
            assert_eq!(got, wanted, "{name}");
        }
    }
}
