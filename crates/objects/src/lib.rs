//! Where images, manifests and models are kept, and the S3 endpoint over it. Buckets and keys come in, content goes out,
//! encrypted at rest where a key says so. It knows nothing of projects, models or who may do what: the endpoint asks.

mod error;
mod file;
mod folder;
mod history;
mod name;
mod objects;
mod page;
mod parts;
mod remote;
pub mod s3;
mod sealed;
mod vault;
mod version;
mod version_page;
mod versioning;
mod versions;

pub use error::ObjectError;
pub(crate) use objects::blocking;
pub use objects::{
    Body, Bucket, ByteRange, Condition, Content, Head, Listed, Object, Objects, Place, PutOptions, RemoteS3,
};
pub use sealed::{seal, unseal};
pub use vault::Vault;
pub use version::Versioning;
pub use versions::Deletion;
