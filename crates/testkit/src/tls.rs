//! A certificate authority of our own, with a server's and a client's certificate, as PEM files in a temporary folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use tempfile::TempDir;

/// Certificates for `localhost` and `127.0.0.1`; each set is signed by a new authority that nobody else trusts.
#[derive(Debug)]
pub struct Certificates {
    folder: TempDir,
}

impl Certificates {
    /// A new authority and what it signed.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn generate() -> Result<Self> {
        let certificates = Self { folder: tempfile::tempdir().context("cannot create a folder for certificates")? };
        let key = KeyPair::generate()?;
        // A name of its own: with equal names, a foreign authority shows as a wrong signature.
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("Linewarden test authority {}", COUNT.fetch_add(1, Ordering::Relaxed));
        let mut authority = params(&name, &[])?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        fs::write(certificates.ca(), authority.self_signed(&key)?.pem())?;
        let issuer = Issuer::new(authority, key);
        let leaves = [
            ("server", "localhost", ExtendedKeyUsagePurpose::ServerAuth),
            ("client", "linewarden", ExtendedKeyUsagePurpose::ClientAuth),
        ];
        for (file, name, usage) in leaves {
            let mut leaf = params(name, &["localhost", "127.0.0.1"])?;
            leaf.extended_key_usages = vec![usage];
            leaf.use_authority_key_identifier_extension = true;
            let key = KeyPair::generate()?;
            fs::write(certificates.path(&format!("{file}.pem")), leaf.signed_by(&key, &issuer)?.pem())?;
            fs::write(certificates.path(&format!("{file}.key")), key.serialize_pem())?;
        }
        Ok(certificates)
    }

    /// The authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// The server's certificate.
    pub fn server_cert(&self) -> PathBuf {
        self.path("server.pem")
    }

    /// The server's private key.
    pub fn server_key(&self) -> PathBuf {
        self.path("server.key")
    }

    /// The client's certificate.
    pub fn client_cert(&self) -> PathBuf {
        self.path("client.pem")
    }

    /// The client's private key.
    pub fn client_key(&self) -> PathBuf {
        self.path("client.key")
    }

    fn path(&self, file: &str) -> PathBuf {
        Path::join(self.folder.path(), file)
    }
}

fn params(common_name: &str, names: &[&str]) -> Result<CertificateParams> {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok(params)
}
