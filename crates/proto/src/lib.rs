//! What goes over the edge agent's socket: messages, and both ends of the service, as `proto/edge_agent.proto` has them.
//!
//! Nothing here decides anything, and nothing knows of models.

#![forbid(unsafe_code)]

/// Made from `proto/edge_agent.proto`, which says what each field means.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "written by the generator")]
pub mod edge_agent {
    tonic::include_proto!("aws.lookout_vision");
}

/// The largest bitmap, and some room for the rest of its message.
pub const LARGEST_MESSAGE_BYTES: usize = 4096 * 4096 * 3 + 64 * 1024;
