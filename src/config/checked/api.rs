//! `[api]`: the REST API of the old service on this machine.

use std::net::SocketAddr;
use std::path::PathBuf;

use linewarden_model::{DetectorOptions, DeviceRequest};

use super::Context;
use crate::config::raw::Section;

const REGION: &str = "us-east-1";
const ACCOUNT: &str = "000000000000";
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
    /// The file of the access keys.
    pub keys: PathBuf,
    /// Whether the REST API asks for signatures; the S3 endpoint always does.
    pub is_signed: bool,
    /// How hosted models run: each inference unit.
    pub options: DetectorOptions,
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
    Some(ApiConfig { data: data?, region, account, s3_listen, keys, is_signed, options })
}
