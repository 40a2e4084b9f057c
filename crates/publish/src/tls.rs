//! TLS towards the broker: whom to trust, and who we are.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::error::PublishError;

/// Files of a TLS connection, each optional.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TlsFiles<'a> {
    pub(crate) ca: Option<&'a Path>,
    pub(crate) cert: Option<&'a Path>,
    pub(crate) key: Option<&'a Path>,
}

impl TlsFiles<'_> {
    /// Settings that would be ignored on an unencrypted connection are a mistake.
    pub(crate) fn require_none(self) -> Result<(), PublishError> {
        let given = [("ca-file", self.ca), ("cert-file", self.cert), ("key-file", self.key)];
        match given.into_iter().find(|(_, path)| path.is_some()) {
            Some((key, _)) => Err(PublishError::Combination(format!("`{key}` needs a broker at `mqtts://`"))),
            None => Ok(()),
        }
    }

    /// Reads the files once; they are not looked at again while the publisher runs.
    pub(crate) fn client_config(self) -> Result<ClientConfig, PublishError> {
        let roots = match self.ca {
            Some(path) => file_roots(path)?,
            None => system_roots()?,
        };
        let unusable = |error: rustls::Error| PublishError::Combination(format!("cannot set up TLS: {error}"));
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_root_certificates(roots);
        match (self.cert, self.key) {
            (None, None) => Ok(builder.with_no_client_auth()),
            (Some(cert), Some(key)) => {
                let chain = certificates("cert-file", cert)?;
                let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable("key-file", key, error))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| {
                    PublishError::Combination(format!("`cert-file` and `key-file` do not go together: {error}"))
                })
            }
            (Some(_), None) => Err(PublishError::Combination("`cert-file` needs `key-file` too".to_owned())),
            (None, Some(_)) => Err(PublishError::Combination("`key-file` needs `cert-file` too".to_owned())),
        }
    }
}

fn file_roots(path: &Path) -> Result<RootCertStore, PublishError> {
    const KEY: &str = "ca-file";
    let mut roots = RootCertStore::empty();
    for certificate in certificates(KEY, path)? {
        roots.add(certificate).map_err(|error| PublishError::FileContent {
            key: KEY,
            path: path.to_owned(),
            problem: format!("holds an unusable certificate: {error}"),
        })?;
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, PublishError> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // A system's store often holds a few certificates that rustls does not take; the others serve.
    roots.add_parsable_certificates(loaded.certs);
    if roots.is_empty() {
        let why = loaded.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(PublishError::Combination(format!(
            "this system has no certificate store{why}: give the broker's certificate authority as `ca-file`"
        )));
    }
    Ok(roots)
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, PublishError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| unreadable(key, path, error))?;
    if found.is_empty() {
        return Err(unreadable(key, path, PemError::NoItemsFound));
    }
    Ok(found)
}

fn unreadable(key: &'static str, path: &Path, error: PemError) -> PublishError {
    let path = path.to_owned();
    let wanted = if key == "key-file" { "private key" } else { "certificate" };
    match error {
        PemError::Io(source) => PublishError::Unreadable { key, path, source },
        PemError::NoItemsFound => {
            PublishError::FileContent { key, path, problem: format!("must hold a PEM {wanted}, found none") }
        }
        // The parser's own message may quote a line of a private key.
        _ => PublishError::FileContent { key, path, problem: format!("must hold a PEM {wanted}, but is malformed") },
    }
}
