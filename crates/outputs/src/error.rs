//! What can be wrong with an output.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// An output that cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// Compiled without it.
    #[error("this build has no {output}: build Linewarden with the feature `{feature}`")]
    NotBuilt {
        /// Its name for people.
        output: &'static str,
        /// What to build with.
        feature: &'static str,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address} for {output}: {source}")]
    Listen {
        /// Its name for people.
        output: &'static str,
        /// Where it was to listen.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A file cannot be used.
    #[error("`{key}`: cannot read `{path}`: {problem}")]
    File {
        /// Which setting names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Settings that do not go together, or that a library refuses.
    #[error("cannot start {output}: {problem}")]
    Start {
        /// Its name for people.
        output: &'static str,
        /// Why not.
        problem: String,
    },
    /// The system gives no thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
}
