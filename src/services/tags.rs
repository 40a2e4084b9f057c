//! Tags of models.

use linewarden_contract::{Arn, Fault, Resource};
use linewarden_store::StoreError;
use serde_json::{Value, json};

use super::{Answer, Call, QUOTA, Services, fault};

/// A resource has at most so many.
const MOST_TAGS: usize = 200;

impl Services {
    pub(super) async fn tag_resource(&self, call: &Call<'_>) -> Answer {
        let arn = self.tagged(call).await?;
        let tags = call.tags();
        let mut names: Vec<String> = self.store.tags(&arn).await.map_err(fault)?.into_iter().map(|tag| tag.0).collect();
        names.extend(tags.iter().map(|tag| tag.0.clone()));
        names.sort_unstable();
        names.dedup();
        if names.len() > MOST_TAGS {
            return Err(Fault::quota(QUOTA, format!("A resource has at most {MOST_TAGS} tags.")));
        }
        self.store.set_tags(&arn, &tags).await.map_err(fault)?;
        Ok(json!({}))
    }

    pub(super) async fn untag_resource(&self, call: &Call<'_>) -> Answer {
        let arn = self.tagged(call).await?;
        let keys = call.members.get("TagKeys").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let keys: Vec<String> = keys.iter().filter_map(|key| key.as_str().map(str::to_owned)).collect();
        self.store.remove_tags(&arn, &keys).await.map_err(fault)?;
        Ok(json!({}))
    }

    pub(super) async fn list_tags(&self, call: &Call<'_>) -> Answer {
        let arn = self.tagged(call).await?;
        let tags = self.store.tags(&arn).await.map_err(fault)?;
        Ok(json!({ "Tags": tags.iter().map(|(key, value)| json!({ "Key": key, "Value": value })).collect::<Value>() }))
    }

    /// The ARN of a model that is there.
    async fn tagged(&self, call: &Call<'_>) -> Result<String, Fault> {
        let written = call.text("ResourceArn");
        let unknown = || Fault::not_found("MODEL", written, format!("The resource {written} does not exist."));
        let arn = Arn::parse(written)?;
        let Resource::Model { project, version } = arn.resource() else {
            return Err(Fault::validation(format!("The resource ARN {written} is not that of a model.")));
        };
        if arn.region() != self.naming.region || arn.account() != self.naming.account {
            return Err(unknown());
        }
        self.store.model(project, *version).await.map_err(|error| match error {
            StoreError::NotFound(_) => unknown(),
            error => fault(error),
        })?;
        Ok(written.to_owned())
    }
}
