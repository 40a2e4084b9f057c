//! From what is declared and what is found to what is to be done: pure.

use std::collections::BTreeMap;
use std::fmt;

use super::declared::{Declared, Location, Model, Project};

/// What the API knows of the declared projects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// By name; those that are not there are missing.
    pub(crate) projects: BTreeMap<String, FoundProject>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FoundProject {
    /// Status by type.
    pub(crate) datasets: BTreeMap<String, String>,
    pub(crate) models: Vec<FoundModel>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundModel {
    pub(crate) version: String,
    pub(crate) arn: String,
    pub(crate) description: String,
    pub(crate) status: String,
    pub(crate) units: (Option<u64>, Option<u64>),
    pub(crate) tags: BTreeMap<String, String>,
}

/// Steps in their order, and what stands in the way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    /// What nobody can do for the user.
    pub(crate) obstacles: Vec<String>,
}

/// One thing to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    CreateProject {
        project: String,
    },
    CreateDataset {
        project: String,
        kind: &'static str,
        manifest: Location,
    },
    /// It is being filled already.
    AwaitDataset {
        project: String,
        kind: &'static str,
    },
    Train {
        project: String,
        description: String,
        output: Location,
        tags: BTreeMap<String, String>,
        hosted: Option<(u64, u64)>,
    },
    /// It is being trained already.
    AwaitTraining {
        project: String,
        version: String,
        description: String,
    },
    Tag {
        arn: String,
        description: String,
        set: BTreeMap<String, String>,
        remove: Vec<String>,
    },
    Host {
        project: String,
        version: String,
        description: String,
        units: (u64, u64),
    },
    Stop {
        project: String,
        version: String,
        description: String,
    },
}

impl Plan {
    pub(crate) fn of(declared: &Declared, found: &Found) -> Self {
        let mut plan = Self::default();
        for project in &declared.projects {
            let there = found.projects.get(&project.name);
            if there.is_none() {
                plan.steps.push(Step::CreateProject { project: project.name.clone() });
            }
            let there = there.cloned().unwrap_or_default();
            plan.add_datasets(project, &there);
            for model in &project.models {
                plan.add_model(project, model, &there);
            }
        }
        plan
    }

    fn add_datasets(&mut self, project: &Project, there: &FoundProject) {
        for (kind, declared) in [("train", &project.train), ("test", &project.test)] {
            let Some(dataset) = declared else { continue };
            let name = project.name.clone();
            match there.datasets.get(kind).map(String::as_str) {
                None => {
                    self.steps.push(Step::CreateDataset { project: name, kind, manifest: dataset.manifest.clone() })
                }
                Some(status) if status.ends_with("IN_PROGRESS") => {
                    self.steps.push(Step::AwaitDataset { project: name, kind });
                }
                Some("CREATE_FAILED") => self.obstacles.push(format!(
                    "the data set {name}/{kind} failed: describe it for the reason, delete it, then apply again"
                )),
                Some(_) => {}
            }
        }
    }

    fn add_model(&mut self, project: &Project, model: &Model, there: &FoundProject) {
        let (name, description) = (project.name.clone(), model.description.clone());
        // The newest of that description; one that failed does not count, and another is trained.
        let is_it = |found: &&FoundModel| found.description == description && found.status != "TRAINING_FAILED";
        let number = |found: &&FoundModel| found.version.parse::<u64>().unwrap_or(0);
        let Some(found) = there.models.iter().filter(is_it).max_by_key(number) else {
            let (output, tags) = (model.output.clone(), model.tags.clone());
            let hosted = model.hosted().flatten();
            return self.steps.push(Step::Train { project: name, description, output, tags, hosted });
        };
        let version = found.version.clone();
        if found.status == "TRAINING" {
            let (project, version) = (name.clone(), version.clone());
            self.steps.push(Step::AwaitTraining { project, version, description: description.clone() });
        }
        let differs = |(key, value): &(&String, &String)| found.tags.get(*key) != Some(*value);
        let set: BTreeMap<String, String> =
            model.tags.iter().filter(differs).map(|(key, value)| (key.clone(), value.clone())).collect();
        let remove: Vec<String> = found.tags.keys().filter(|key| !model.tags.contains_key(*key)).cloned().collect();
        if !set.is_empty() || !remove.is_empty() {
            self.steps.push(Step::Tag { arn: found.arn.clone(), description: description.clone(), set, remove });
        }
        let is_hosted = ["HOSTED", "STARTING_HOSTING"].contains(&found.status.as_str());
        let stop = Step::Stop { project: name.clone(), version: version.clone(), description: description.clone() };
        match model.hosted() {
            None => {}
            Some(None) if is_hosted => self.steps.push(stop),
            Some(None) => {}
            Some(Some((least, most))) => {
                let is_so = is_hosted && found.units == (Some(least), Some(most));
                if is_hosted && !is_so {
                    self.steps.push(stop);
                }
                if !is_so {
                    self.steps.push(Step::Host { project: name, version, description, units: (least, most) });
                }
            }
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateProject { project } => write!(formatter, "+ project {project}"),
            Self::CreateDataset { project, kind, manifest } => {
                write!(formatter, "+ data set {project}/{kind} from {manifest}")
            }
            Self::AwaitDataset { project, kind } => {
                write!(formatter, "~ data set {project}/{kind} is being filled: wait")
            }
            Self::Train { project, description, output, hosted, .. } => {
                write!(formatter, "+ model {project} \"{description}\" is trained, its evaluation goes to {output}")?;
                match hosted {
                    Some((least, most)) => write!(formatter, ", then hosted by {least} to {most} inference units"),
                    None => Ok(()),
                }
            }
            Self::AwaitTraining { project, version, description } => {
                write!(formatter, "~ model {project}/{version} \"{description}\" is being trained: wait")
            }
            Self::Tag { description, set, remove, .. } => {
                let set: Vec<String> = set.iter().map(|(key, value)| format!("{key}={value}")).collect();
                let remove: Vec<String> = remove.iter().map(|key| format!("without {key}")).collect();
                write!(formatter, "~ tags of model \"{description}\": {}", [set, remove].concat().join(", "))
            }
            Self::Host { project, version, description, units: (least, most) } => {
                let told = format!("is hosted by {least} to {most} inference units");
                write!(formatter, "~ model {project}/{version} \"{description}\" {told}")
            }
            Self::Stop { project, version, description } => {
                write!(formatter, "- model {project}/{version} \"{description}\" is hosted no more")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(hosted: &str) -> Declared {
        let text = format!(
            "[[project]]\nname = \"cap\"\ntrain = {{ manifest = \"s3://b/t\" }}\n\
             [[project.model]]\ndescription = \"first\"\noutput = \"s3://b/o\"\n{hosted}\ntags = {{ line = \"1\" }}\n"
        );
        toml::from_str(&text).unwrap()
    }

    fn found(status: &str, units: (Option<u64>, Option<u64>), tags: &[(&str, &str)]) -> Found {
        let tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let text = |text: &str| text.to_owned();
        let model = FoundModel {
            version: text("7"),
            arn: text("arn"),
            description: text("first"),
            status: text(status),
            units,
            tags,
        };
        let datasets = BTreeMap::from([(text("train"), text("CREATE_COMPLETE"))]);
        let project =
            FoundProject { datasets, models: vec![FoundModel { version: text("6"), ..model.clone() }, model] };
        Found { projects: BTreeMap::from([(text("cap"), project)]) }
    }

    #[test]
    fn each_difference_is_a_step_and_nothing_else_is() {
        let told = |hosted: &str, found: &Found| -> Vec<String> {
            Plan::of(&declared(hosted), found).steps.iter().map(ToString::to_string).collect()
        };
        let good = [("line", "1")];
        let nothing: [&str; 0] = [];
        let units = (Some(1), Some(2));
        assert_eq!(
            told("hosted = [1, 2]", &Found::default()),
            [
                "+ project cap",
                "+ data set cap/train from s3://b/t",
                "+ model cap \"first\" is trained, its evaluation goes to s3://b/o, then hosted by 1 to 2 inference units",
            ]
        );
        assert_eq!(told("hosted = [1, 2]", &found("HOSTED", units, &good)), nothing);
        assert_eq!(told("", &found("TRAINED", (None, None), &good)), nothing);
        assert_eq!(told("hosted = 0", &found("TRAINED", (None, None), &good)), nothing);
        assert_eq!(told("hosted = 0", &found("HOSTED", units, &good)), ["- model cap/7 \"first\" is hosted no more"]);
        assert_eq!(
            told("hosted = 3", &found("HOSTED", units, &[("line", "2"), ("old", "")])),
            [
                "~ tags of model \"first\": line=1, without old",
                "- model cap/7 \"first\" is hosted no more",
                "~ model cap/7 \"first\" is hosted by 3 to 3 inference units",
            ]
        );
        assert_eq!(
            told("", &found("TRAINING", (None, None), &good)),
            ["~ model cap/7 \"first\" is being trained: wait"]
        );
        assert_eq!(told("", &found("TRAINING_FAILED", (None, None), &good)).len(), 1);
        let mut failed = found("TRAINED", (None, None), &good);
        let project = failed.projects.get_mut("cap").unwrap();
        project.datasets.insert("train".to_owned(), "CREATE_FAILED".to_owned());
        let plan = Plan::of(&declared(""), &failed);
        assert!(plan.steps.is_empty() && plan.obstacles[0].contains("cap/train failed"), "{plan:?}");
    }
}
