//! The services with everything that they need, from start to stop.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use linewarden_access::{Credentials, Keys};
use linewarden_objects::s3::{self, S3Options};
use linewarden_objects::{Objects, Place, RemoteS3};
use linewarden_store::Metadata;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{LineOf, Naming, Services};
use crate::config::ApiConfig;
use crate::gate::{Gate, Rules};
use crate::hosting::Hosting;
use crate::http::stopper;
use crate::jobs::{Bell, Jobs};
use crate::metrics::Metrics;
use crate::packages::Packages;
use crate::tls;

/// Services that work until they are stopped.
pub(crate) struct Running {
    pub(crate) services: Arc<Services>,
    pub(crate) gate: Arc<Gate>,
    jobs: Jobs,
    s3_stop: oneshot::Sender<()>,
    s3: JoinHandle<std::io::Result<()>>,
}

impl Running {
    /// Opens the store, takes up interrupted jobs, and hosts what was hosted.
    ///
    /// # Errors
    /// When the data folder cannot be used.
    pub(crate) async fn start(config: &ApiConfig, metrics: &Arc<Metrics>, line_of: LineOf) -> anyhow::Result<Self> {
        let data = &config.data;
        let failed = || format!("cannot keep data in `{}`", data.display());
        let keys = Keys::open(&config.keys)?;
        let listener = TcpListener::bind(config.s3_listen).await.with_context(|| {
            format!("cannot listen on {} for S3: free the port, or set `s3_listen` under `[api]`", config.s3_listen)
        })?;
        for folder in [data, &config.models()] {
            tokio::fs::create_dir_all(folder).await.with_context(failed)?;
        }
        let store = Metadata::open(&config.database).await.context("cannot use `database` under `[api]`")?;
        let vault = config.vault().context("cannot read the keys of `[api.encryption]`")?;
        let place = place(config).await.with_context(failed)?;
        let naming = Naming { region: config.region.clone(), account: config.account.clone() };
        let rules = Rules {
            naming: naming.clone(),
            is_signed: config.is_signed,
            is_s3_tls: config.tls.is_some(),
            calls_per_second: config.calls_per_second,
            audit: data.join("audit"),
            audit_days: config.audit_days,
        };
        let gate = Arc::new(Gate::new(keys, store.clone(), rules));
        let services = Arc::new(Services {
            store,
            objects: Objects::open(place, vault.clone()).await.with_context(failed)?,
            packages: Packages::new(config.models(), vault.clone()),
            vault,
            hosting: Arc::new(Hosting::new(config.options.clone(), metrics)),
            bell: Arc::new(Bell::default()),
            naming,
            line_of,
        });
        let jobs = Jobs::start(&services, data.join("work")).await.with_context(failed)?;
        services.resume_hosting().await.map_err(|fault| anyhow::anyhow!("{}: {fault}", failed()))?;
        let address = listener.local_addr().context("a listener has an address")?;
        tracing::info!(%address, "S3 endpoint listens");
        let tls = config.tls.as_ref().map(tls::acceptor).transpose()?;
        let options = S3Options { region: config.region.clone(), tls, ..S3Options::default() };
        let (s3_stop, stopped) = stopper();
        let asked: Arc<dyn s3::Gate> = Arc::<Gate>::clone(&gate);
        let s3 = tokio::spawn(s3::serve(listener, services.objects.clone(), asked, options, stopped));
        Ok(Self { services, gate, jobs, s3_stop, s3 })
    }

    /// Interrupts the jobs, answers the pictures that wait, and closes the store.
    pub(crate) async fn stop(self, grace: Duration) {
        let Self { services, jobs, s3_stop, s3, .. } = self;
        // The endpoint may have ended by itself; then nobody listens.
        let _ = s3_stop.send(());
        if tokio::time::timeout(grace, s3).await.is_err() {
            tracing::warn!(?grace, "the S3 endpoint did not answer everything in time");
        }
        jobs.stop().await;
        let hosting = Arc::clone(&services.hosting);
        let stopped = tokio::task::spawn_blocking(move || hosting.stop_all());
        if tokio::time::timeout(grace, stopped).await.is_err() {
            tracing::warn!(?grace, "hosted models did not answer everything in time");
        }
        services.store.close().await;
    }
}

/// Where objects lie: in a folder of the data, or in a remote store with a folder for what is on its way.
async fn place(config: &ApiConfig) -> anyhow::Result<Place> {
    let Some(remote) = &config.remote else {
        let folder = config.data.join("objects");
        tokio::fs::create_dir_all(&folder).await?;
        return Ok(Place::Folder(folder));
    };
    let file = remote.credentials_file.as_deref();
    let Credentials { id, secret } = Credentials::find(file, "a `credentials_file` under `[api.objects]`")?;
    let scratch = config.data.join("scratch");
    tokio::fs::create_dir_all(&scratch).await?;
    Ok(Place::S3(RemoteS3 {
        endpoint: remote.endpoint.clone(),
        region: remote.region.clone(),
        access_key_id: id,
        secret_access_key: secret,
        // Whoever writes an address without TLS means it.
        allow_http: remote.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://")),
        buckets: remote.buckets.clone(),
        scratch,
    }))
}
