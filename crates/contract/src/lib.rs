//! The wire contract of the old service: operations, members, constraints, errors.
//!
//! One data file, `model/service-2.json` in the format of botocore, says what there is; everything here reads it. A method,
//! a path, headers and a body come in; an [`Operation`] and its checked [`Input`] go out, or a [`Fault`] that says all that
//! is wrong in the words of the old service. The same file is what [`install`] gives to clients that no longer carry it.
//! This crate knows nothing of sockets, of who may call, or of what an operation does.

#![forbid(unsafe_code)]

mod arn;
mod contract;
mod fault;
mod input;
mod install;
mod model;
mod page;
mod percent;
mod read;
mod violation;

pub use arn::{Arn, Resource};
pub use contract::{Contract, Labels, Operation, Route};
pub use fault::Fault;
pub use input::{Input, blob, flag, number, text, timestamp, write_timestamp};
pub use install::{InstallError, default_folder, install, remove};
pub use page::PageToken;
