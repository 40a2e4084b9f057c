//! Projects.

use linewarden_contract::Fault;
use linewarden_store::{Dataset, Project, StoreError};
use serde_json::{Value, json};

use super::{Answer, Call, Services, fault, time};

impl Services {
    pub(super) async fn create_project(&self, call: &Call<'_>) -> Answer {
        let created = self.store.create_project(call.text("ProjectName"), call.token()).await.map_err(fault)?;
        Ok(json!({ "ProjectMetadata": self.project_metadata(&created.into_inner()) }))
    }

    pub(super) async fn describe_project(&self, call: &Call<'_>) -> Answer {
        let name = call.text("ProjectName");
        let project = self.store.project(name).await.map_err(fault)?;
        let datasets = self.store.datasets(name).await.map_err(fault)?;
        let mut description = self.project_metadata(&project);
        description["Datasets"] = datasets.iter().map(dataset_metadata).collect();
        Ok(json!({ "ProjectDescription": description }))
    }

    pub(super) async fn list_projects(&self, call: &Call<'_>) -> Answer {
        let (after, limit) = (call.after()?, call.limit());
        // One more than asked for says whether there is another page.
        let mut projects = self.store.projects(after.as_deref(), limit + 1).await.map_err(fault)?;
        let more = projects.len() > limit as usize;
        projects.truncate(limit as usize);
        let mut answer =
            json!({ "Projects": projects.iter().map(|one| self.project_metadata(one)).collect::<Value>() });
        if let Some(last) = projects.last().filter(|_| more) {
            answer["NextToken"] = call.pages().write(&last.name).into();
        }
        Ok(answer)
    }

    pub(super) async fn delete_project(&self, call: &Call<'_>) -> Answer {
        let name = call.text("ProjectName");
        self.store.delete_project(name).await.map_err(|error| match error {
            StoreError::InUse(_) => Fault::conflict(
                "PROJECT",
                name,
                format!("The project {name} has data sets or models: delete them first."),
            ),
            error => fault(error),
        })?;
        Ok(json!({ "ProjectArn": self.naming.project(name) }))
    }

    fn project_metadata(&self, project: &Project) -> Value {
        json!({
            "ProjectArn": self.naming.project(&project.name),
            "ProjectName": project.name,
            "CreationTimestamp": time(project.created_at),
        })
    }
}

/// As projects list their data sets.
pub(super) fn dataset_metadata(dataset: &Dataset) -> Value {
    json!({
        "DatasetType": dataset.kind.as_str(),
        "CreationTimestamp": time(dataset.created_at),
        "Status": dataset.status.as_str(),
        "StatusMessage": dataset.status_message,
    })
}
