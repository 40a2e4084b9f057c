//! `[api]`: the REST API of the old service on this machine.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;

use linewarden_model::{DetectorOptions, DeviceRequest};
use linewarden_objects::{ObjectError, Vault};
use linewarden_store::Database;

use super::Context;
use crate::config::raw::Section;

const REGION: &str = "us-east-1";
const ACCOUNT: &str = "000000000000";
/// Encryption keys in the environment: `name=64 hexadecimal digits`, several with commas between.
const OBJECT_KEYS: &str = "LINEWARDEN_OBJECT_KEYS";
/// Far above what a program needs that polls, far below what holds up the others.
const CALLS_PER_SECOND: u32 = 50;
const AUDIT_DAYS: i64 = 90;
const S3_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8751);

/// The REST API, its store and its hosting.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// Folder of the database, the objects and the packages.
    pub data: PathBuf,
    /// The region that ARNs and signatures name.
    pub region: String,
    /// The account that ARNs name.
    pub account: String,
    /// Where the S3 endpoint listens.
    pub s3_listen: SocketAddr,
    /// A door of the API over TLS, over which the S3 endpoint is then too.
    pub tls: Option<TlsConfig>,
    /// The file of the access keys.
    pub keys: PathBuf,
    /// Whether the REST API asks for signatures; the S3 endpoint always does.
    pub is_signed: bool,
    /// How hosted models run: each inference unit.
    pub options: DetectorOptions,
    /// Where projects, data sets, models and jobs are written down.
    pub database: Database,
    /// Another S3 that the objects lie in; without one they lie in a folder of `data`.
    pub remote: Option<RemoteConfig>,
    /// The keys that objects and models are encrypted with.
    pub encryption: EncryptionConfig,
    /// Calls a second of one operation by one access key.
    pub calls_per_second: Option<NonZeroU32>,
    /// How many days the audit log keeps.
    pub audit_days: u16,
}

/// A door over TLS.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// Where the API listens for it.
    pub listen: SocketAddr,
    /// The certificate and those above it, as PEM.
    pub cert_file: PathBuf,
    /// Its private key, as PEM.
    pub key_file: PathBuf,
}

/// An S3 of somebody else's.
#[derive(Debug, Clone)]
pub struct RemoteConfig {
    /// `None` for the one of the region.
    pub endpoint: Option<String>,
    /// As in `eu-west-1`.
    pub region: String,
    /// The buckets that may be used; they are made there.
    pub buckets: Vec<String>,
    /// Access key and secret, as `linewarden keys create` prints them; without one they are in the environment.
    pub credentials_file: Option<PathBuf>,
}

impl ApiConfig {
    /// Where trained models lie.
    pub fn models(&self) -> PathBuf {
        self.data.join("models")
    }

    /// The encryption keys, of the folder and of the environment.
    ///
    /// # Errors
    /// When one cannot be read, or the default one is not among them.
    pub fn vault(&self) -> Result<Vault, ObjectError> {
        let digits = std::env::var(OBJECT_KEYS).ok();
        let EncryptionConfig { keys, default } = &self.encryption;
        let vault = Vault::load(keys.as_deref(), digits.as_deref(), default.as_deref())?;
        Ok(vault.with_managed(self.data.join("managed.key")))
    }
}

/// Where encryption keys are.
#[derive(Debug, Clone, Default)]
pub struct EncryptionConfig {
    /// A folder of files `NAME.key`.
    pub keys: Option<PathBuf>,
    /// The key of objects for which nobody names one.
    pub default: Option<String>,
}

/// `None` after noting what is wrong.
pub(super) fn read_api(section: &Section<'_>, context: &Context, listen: SocketAddr) -> Option<ApiConfig> {
    let data = section.text("data").map(|data| context.path(&data.value));
    if section.value("data").is_none() {
        section.missing("data", "a folder for the database, the objects and the models");
    }
    let region = section.text("region").map_or_else(|| REGION.to_owned(), |region| region.value);
    let account = section.read("account", "12 digits", |value| {
        let digits = value.as_str()?;
        (digits.len() == 12 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.to_owned())
    });
    let device = section.read("device", "one of auto, cpu, cuda, tensorrt, openvino", |value| {
        value.as_str()?.parse::<DeviceRequest>().ok()
    });
    let whole = |key, least, most| section.integer(key, least, most).and_then(|number| usize::try_from(number).ok());
    let threads = whole("threads", 1, 256).unwrap_or(1);
    let s3_listen =
        section.read("s3_listen", "an address such as 127.0.0.1:8751", |value| value.as_str()?.parse().ok());
    let s3_listen = s3_listen.map_or(S3_LISTEN, |listen| listen.value);
    let keys = section.text("keys").map_or_else(|| context.path("keys.toml"), |keys| context.path(&keys.value));
    let is_signed = section.choice("access", &[("signed", true), ("open", false)]).unwrap_or(true);
    let database = read_database(section);
    let remote = section.section("objects").map(|objects| read_remote(&objects, context));
    let encryption = section.section("encryption").map(|encryption| {
        let keys = encryption.text("keys").map(|keys| context.path(&keys.value));
        let default = encryption.text("default").map(|name| name.value);
        encryption.finish();
        EncryptionConfig { keys, default }
    });
    let tls = section.section("tls").map(|tls| read_tls(&tls, context));
    let calls = section.integer("calls_per_second", 0, 100_000).and_then(|calls| u32::try_from(calls).ok());
    let audit_days = section.integer("audit_days", 1, 10_000).unwrap_or(AUDIT_DAYS);
    section.finish();
    // Whoever may reach it may do everything: said by the user, and on this machine only.
    if !is_signed && !listen.ip().is_loopback() {
        let told = format!("`access = \"open\"` needs `listen` under `[http]` on this machine only, got {listen}");
        section.problem(section.at(), told);
        return None;
    }
    let options = DetectorOptions {
        device: device.map(|device| device.value).unwrap_or_default(),
        threads,
        ..DetectorOptions::default()
    };
    let account = account.map_or_else(|| ACCOUNT.to_owned(), |account| account.value);
    let data = data?;
    Some(ApiConfig {
        region,
        account,
        s3_listen,
        keys,
        is_signed,
        options,
        tls: match tls {
            Some(tls) => Some(tls?),
            None => None,
        },
        database: database?.unwrap_or_else(|| Database::Sqlite(data.join("linewarden.db"))),
        remote: match remote {
            Some(remote) => Some(remote?),
            None => None,
        },
        encryption: encryption.unwrap_or_default(),
        calls_per_second: NonZeroU32::new(calls.unwrap_or(CALLS_PER_SECOND)),
        audit_days: u16::try_from(audit_days).unwrap_or(u16::MAX),
        data,
    })
}

/// The outer `None` is a mistake, the inner one the embedded database. Never quotes the address: it may hold a password.
fn read_database(section: &Section<'_>) -> Option<Option<Database>> {
    let Some(url) = section.text("database") else {
        return section.value("database").is_none().then_some(None);
    };
    let rest = url.value.strip_prefix("postgres://").or_else(|| url.value.strip_prefix("postgresql://"));
    let Some(rest) = rest else {
        section.problem(url.at, "`database` must be an address such as postgres://linewarden@db/linewarden");
        return None;
    };
    let user = rest.split('/').next().and_then(|authority| authority.rsplit_once('@')).map_or("", |(user, _)| user);
    if user.contains(':') {
        let told = "`database` must not hold the password: put it into the environment's PGPASSWORD";
        section.problem(url.at, told);
        return None;
    }
    Some(Some(Database::Postgres(url.value)))
}

fn read_tls(section: &Section<'_>, context: &Context) -> Option<TlsConfig> {
    let allowed = "an address and port such as \"0.0.0.0:8743\"";
    let listen = section.read("listen", allowed, |value| value.as_str()?.parse().ok());
    let needed = |key: &'static str, allowed: &str| {
        if section.value(key).is_none() {
            section.missing(key, allowed);
        }
    };
    needed("listen", allowed);
    needed("cert_file", "a file with the certificate and those above it, as PEM");
    needed("key_file", "a file with the certificate's private key, as PEM");
    let file = |key| section.text(key).map(|file| context.path(&file.value));
    let (cert_file, key_file) = (file("cert_file"), file("key_file"));
    section.finish();
    Some(TlsConfig { listen: listen?.value, cert_file: cert_file?, key_file: key_file? })
}

fn read_remote(section: &Section<'_>, context: &Context) -> Option<RemoteConfig> {
    let endpoint = section.text("endpoint");
    let region = section.text("region").map_or_else(|| REGION.to_owned(), |region| region.value);
    let buckets = section.read("buckets", "a list of names of buckets, such as [\"pictures\"]", |value| {
        let names = value.as_array()?.iter().map(|name| name.get_ref().as_str().map(str::to_owned));
        names.collect::<Option<Vec<String>>>().filter(|names| !names.is_empty())
    });
    if section.value("buckets").is_none() {
        section.missing("buckets", "a list of names of buckets, such as [\"pictures\"]");
    }
    let credentials_file = section.text("credentials_file").map(|file| context.path(&file.value));
    section.finish();
    if let Some(endpoint) = &endpoint
        && !endpoint.value.starts_with("https://")
        && !endpoint.value.starts_with("http://")
    {
        section.problem(endpoint.at.clone(), "`endpoint` must be an address such as https://s3.example.com");
        return None;
    }
    let endpoint = endpoint.map(|endpoint| endpoint.value);
    Some(RemoteConfig { endpoint, region, buckets: buckets?.value, credentials_file })
}
