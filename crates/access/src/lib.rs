//! Who calls and what they may do: access keys in a file, the signatures that they make, and policies.
//!
//! A request as it was sent comes in, who signed it goes out; an action on a resource comes in, whether it is allowed goes
//! out. It reads and writes the file of the keys, and knows neither sockets nor what callers want.

mod credentials;
mod keys;
mod managed;
mod policy;
mod signature;

pub use credentials::Credentials;
pub use keys::{AccessKey, KeyError, Keys, User};
pub use managed::{ADMINISTRATOR, managed_names};
pub use policy::{Context, Denied, Policy, PolicyError, Request, weigh};
pub use signature::{AuthFault, BodyHash, BodyHasher, Scope, Signed, encoded, sign, verify};
