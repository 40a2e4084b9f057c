//! Data sets: their entries come from manifests in S3 and from changes that callers send.

use linewarden_contract::{Fault, blob, flag, timestamp};
use linewarden_store::{Class, DatasetKind, EntryFilter, JobKind, NewEntry, NewJob};
use linewarden_train::dataset::{self, read_entries};
use serde_json::json;

use super::projects::dataset_metadata;
use super::{Answer, Call, Services, fault, time};

/// An entry of a list is at most this long.
const MOST_ENTRY_BYTES: usize = 8192;

impl Services {
    pub(super) async fn create_dataset(&self, call: &Call<'_>) -> Answer {
        let (project, kind) = (call.text("ProjectName"), kind_of(call));
        let source = call.members.get("DatasetSource").and_then(|source| source.get("GroundTruthManifest"));
        let source = source.and_then(|source| source.get("S3Object"));
        let job = source.map(|object| NewJob {
            kind: JobKind::Import,
            subject: json!({ "kind": kind.as_str(), "object": object }),
        });
        let created = self.store.create_dataset(project, kind, source, job, call.token()).await.map_err(fault)?;
        self.bell.ring();
        Ok(json!({ "DatasetMetadata": dataset_metadata(&created.into_inner()) }))
    }

    pub(super) async fn describe_dataset(&self, call: &Call<'_>) -> Answer {
        let project = call.text("ProjectName");
        let dataset = self.store.dataset(project, kind_of(call)).await.map_err(fault)?;
        let counts = dataset.counts;
        Ok(json!({ "DatasetDescription": {
            "ProjectName": project,
            "DatasetType": dataset.kind.as_str(),
            "CreationTimestamp": time(dataset.created_at),
            "LastUpdatedTimestamp": time(dataset.updated_at),
            "Status": dataset.status.as_str(),
            "StatusMessage": dataset.status_message,
            "ImageStats": {
                "Total": counts.total, "Labeled": counts.labeled, "Normal": counts.normal, "Anomaly": counts.anomaly,
            },
        } }))
    }

    pub(super) async fn delete_dataset(&self, call: &Call<'_>) -> Answer {
        self.store.delete_dataset(call.text("ProjectName"), kind_of(call)).await.map_err(fault)?;
        Ok(json!({}))
    }

    pub(super) async fn list_dataset_entries(&self, call: &Call<'_>) -> Answer {
        let (project, kind, limit) = (call.text("ProjectName"), kind_of(call), call.limit());
        let filter = EntryFilter {
            labeled: flag(call.members, "Labeled"),
            class: match call.optional("AnomalyClass") {
                Some("normal") => Some(Class::Normal),
                Some(_) => Some(Class::Anomaly),
                None => None,
            },
            before: timestamp(call.members, "BeforeCreationDate"),
            after: timestamp(call.members, "AfterCreationDate"),
            source_ref_contains: call.optional("SourceRefContains").map(str::to_owned),
        };
        let after = match call.after()? {
            Some(token) => token.parse().map_err(|_| Fault::validation("The value of NextToken is not valid."))?,
            None => 0,
        };
        let entries = self.store.list_entries(project, kind, &filter, after, limit + 1).await.map_err(fault)?;
        let page = entries.get(..limit as usize).unwrap_or(&entries);
        let mut answer = json!({ "DatasetEntries": page.iter().map(|entry| entry.line.as_str()).collect::<Vec<_>>() });
        if let Some(last) = page.last().filter(|_| entries.len() > page.len()) {
            answer["NextToken"] = call.pages().write(&last.id.to_string()).into();
        }
        Ok(answer)
    }

    pub(super) async fn update_dataset_entries(&self, call: &Call<'_>) -> Answer {
        let (project, kind) = (call.text("ProjectName"), kind_of(call));
        let changes = blob(call.members, "Changes");
        let entries = entries_of(&changes, "Changes").map_err(Fault::validation)?;
        let job = NewJob {
            kind: JobKind::Update,
            subject: json!({ "kind": kind.as_str(), "lines": entries.iter().map(|entry| &entry.line).collect::<Vec<_>>() }),
        };
        self.store.begin_update(project, kind, job, call.token()).await.map_err(fault)?;
        self.bell.ring();
        Ok(json!({ "Status": "UPDATE_IN_PROGRESS" }))
    }
}

/// The contract has no third one.
fn kind_of(call: &Call<'_>) -> DatasetKind {
    if call.text("DatasetType") == "test" { DatasetKind::Test } else { DatasetKind::Train }
}

/// The lines of a manifest or of changes, each checked, or everything that is wrong with them.
pub(crate) fn entries_of(content: &[u8], name: &str) -> Result<Vec<NewEntry>, String> {
    let entries = read_entries(content, name).map_err(|error| error.to_string())?;
    let too_long = entries.iter().find(|entry| entry.text.len() > MOST_ENTRY_BYTES);
    if let Some(entry) = too_long {
        let bytes = entry.text.len();
        let told =
            format!("the entry of `{}` has {bytes} bytes, the most allowed is {MOST_ENTRY_BYTES}", entry.source_ref);
        return Err(told);
    }
    let entry = |entry: dataset::Entry| NewEntry {
        class: entry.class.map(|class| match class {
            dataset::Class::Normal => Class::Normal,
            dataset::Class::Anomaly => Class::Anomaly,
        }),
        source_ref: entry.source_ref,
        line: entry.text,
    };
    Ok(entries.into_iter().map(entry).collect())
}
