//! Why a publisher cannot be started.

use std::io;
use std::path::PathBuf;

use crate::broker_url::BrokerUrlError;

/// What is wrong with a publisher's configuration. An absent broker is not among these: it is waited for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The broker's address makes no sense.
    #[error(transparent)]
    BrokerUrl(#[from] BrokerUrlError),
    /// A name cannot be part of a topic.
    #[error("`{key}` must be {allowed}, got `{name}`")]
    Name {
        /// Which setting.
        key: &'static str,
        /// What was given.
        name: String,
        /// What may be given.
        allowed: &'static str,
    },
    /// A number or duration is out of range.
    #[error("`{key}` must be {allowed}, got {got}")]
    Range {
        /// Which setting.
        key: &'static str,
        /// What was given.
        got: String,
        /// What may be given.
        allowed: &'static str,
    },
    /// A file cannot be read.
    #[error("`{key}`: cannot read `{}`: {source}", path.display())]
    Unreadable {
        /// Which setting.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file was read, but is not what it should be.
    #[error("`{key}`: `{}` {problem}", path.display())]
    FileContent {
        /// Which setting.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it; never quotes a secret.
        problem: String,
    },
    /// Two settings do not go together.
    #[error("{0}")]
    Combination(String),
    /// The system gave no thread or no runtime.
    #[error("cannot start the publisher's thread: {0}")]
    Thread(io::Error),
}
