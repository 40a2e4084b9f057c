//! Who calls: access keys in a file, and the signatures that they make.
//!
//! A request as it was sent comes in, who signed it goes out. It reads and writes the file of the keys, and knows neither
//! sockets nor what callers want.

mod keys;
mod signature;

pub use keys::{AccessKey, KeyError, Keys, NewKey};
pub use signature::{AuthFault, Scope, Signed, verify};
