//! The names under which policies and tags know resources.

use std::fmt;

use crate::Fault;

/// `arn:aws:lookoutvision:REGION:ACCOUNT:project/NAME` or `arn:aws:lookoutvision:REGION:ACCOUNT:model/PROJECT/VERSION`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Arn {
    region: String,
    account: String,
    resource: Resource,
}

/// What an ARN names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    /// A project.
    Project {
        /// Its name.
        name: String,
    },
    /// A version of a model.
    Model {
        /// The name of its project.
        project: String,
        /// Its number, from 1.
        version: u64,
    },
}

impl Arn {
    /// Of a project.
    pub fn project(region: impl Into<String>, account: impl Into<String>, name: impl Into<String>) -> Self {
        Self { region: region.into(), account: account.into(), resource: Resource::Project { name: name.into() } }
    }

    /// Of a version of a model.
    pub fn model(
        region: impl Into<String>,
        account: impl Into<String>,
        project: impl Into<String>,
        version: u64,
    ) -> Self {
        let resource = Resource::Model { project: project.into(), version };
        Self { region: region.into(), account: account.into(), resource }
    }

    /// Reads one, strictly.
    ///
    /// # Errors
    /// When it is not exactly what [`Arn`] writes.
    pub fn parse(written: &str) -> Result<Self, Fault> {
        parsed(written)
            .ok_or_else(|| Fault::validation("the resource ARN is not that of a project or of a version of a model"))
    }

    /// Where the service says that it is.
    #[must_use]
    pub fn region(&self) -> &str {
        &self.region
    }

    /// Whose it is: twelve digits.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.account
    }

    /// What it names.
    #[must_use]
    pub fn resource(&self) -> &Resource {
        &self.resource
    }

    /// The project that it names, or whose model it names.
    #[must_use]
    pub fn project_name(&self) -> &str {
        match &self.resource {
            Resource::Project { name } => name,
            Resource::Model { project, .. } => project,
        }
    }
}

impl fmt::Display for Arn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "arn:aws:lookoutvision:{}:{}:", self.region, self.account)?;
        match &self.resource {
            Resource::Project { name } => write!(formatter, "project/{name}"),
            Resource::Model { project, version } => write!(formatter, "model/{project}/{version}"),
        }
    }
}

fn parsed(written: &str) -> Option<Arn> {
    let (region, rest) = written.strip_prefix("arn:aws:lookoutvision:")?.split_once(':')?;
    let (account, resource) = rest.split_once(':')?;
    let is_region = !region.is_empty()
        && region.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
    if !is_region || !is_account {
        return None;
    }
    if let Some(name) = resource.strip_prefix("project/") {
        return is_project_name(name).then(|| Arn::project(region, account, name));
    }
    let (project, version) = resource.strip_prefix("model/")?.split_once('/')?;
    // Neither a sign nor a leading zero, so that a version has one ARN.
    let is_number = !version.starts_with('0') && version.bytes().all(|byte| byte.is_ascii_digit());
    let version = is_number.then(|| version.parse().ok()).flatten()?;
    is_project_name(project).then(|| Arn::model(region, account, project, version))
}

fn is_project_name(name: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    name.len() <= 255
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && name.bytes().all(is_inner)
}
