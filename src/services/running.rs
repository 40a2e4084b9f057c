//! The services with everything that they need, from start to stop.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use linewarden_access::Keys;
use linewarden_objects::s3::{self, S3Options};
use linewarden_objects::{Objects, Place, Vault};
use linewarden_store::{Database, Metadata};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Naming, Services};
use crate::config::ApiConfig;
use crate::gate::Gate;
use crate::hosting::Hosting;
use crate::jobs::{Bell, Jobs};
use crate::metrics::Metrics;

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
    pub(crate) async fn start(config: &ApiConfig, metrics: &Arc<Metrics>) -> anyhow::Result<Self> {
        let data = &config.data;
        let failed = || format!("cannot keep data in `{}`", data.display());
        let gate = Arc::new(Gate::new(Keys::open(&config.keys)?, &config.region, config.is_signed));
        let listener = TcpListener::bind(config.s3_listen).await.with_context(|| {
            format!("cannot listen on {} for S3: free the port, or set `s3_listen` under `[api]`", config.s3_listen)
        })?;
        let (packages, objects) = (data.join("models"), data.join("objects"));
        for folder in [data, &packages, &objects] {
            tokio::fs::create_dir_all(folder).await.with_context(failed)?;
        }
        let store = Metadata::open(&Database::Sqlite(data.join("linewarden.db"))).await.with_context(failed)?;
        let vault = Vault::plain();
        let services = Arc::new(Services {
            store,
            objects: Objects::open(Place::Folder(objects), vault.clone()).await.with_context(failed)?,
            vault,
            hosting: Arc::new(Hosting::new(config.options.clone(), metrics)),
            bell: Arc::new(Bell::default()),
            naming: Naming { region: config.region.clone(), account: config.account.clone() },
            packages,
        });
        let jobs = Jobs::start(&services, data.join("work")).await.with_context(failed)?;
        services.resume_hosting().await.map_err(|fault| anyhow::anyhow!("{}: {fault}", failed()))?;
        let address = listener.local_addr().context("a listener has an address")?;
        tracing::info!(%address, "S3 endpoint listens");
        let options = S3Options { region: config.region.clone(), ..S3Options::default() };
        let (s3_stop, stopped) = oneshot::channel::<()>();
        let asked: Arc<dyn s3::Gate> = Arc::<Gate>::clone(&gate);
        let s3 = tokio::spawn(s3::serve(listener, services.objects.clone(), asked, options, async {
            // A dropped sender means stop too.
            let _ = stopped.await;
        }));
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
