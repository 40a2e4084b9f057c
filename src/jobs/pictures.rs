//! A data set as files, for the programs that read those.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use anyhow::Context as _;
use linewarden_store::{DatasetKind, EntryFilter, ModelStatus};
use linewarden_train::dataset::read_entries;
use tokio::io::AsyncWriteExt as _;

use super::import::{of_object, shortened};
use super::{JobError, Worker};

/// Entries that are read at once.
const PAGE: u32 = 1000;

/// What the files are for.
pub(super) enum For {
    /// The training of this version, which may be cancelled meanwhile.
    Training(u64),
    /// A component.
    Packaging,
}

impl Worker {
    /// Pictures and masks of a data set as files, and its manifest.
    pub(super) async fn lay_out(
        &self,
        folder: &Path,
        project: &str,
        whom: &For,
        kind: DatasetKind,
    ) -> Result<PathBuf, JobError> {
        let images = folder.join("images");
        tokio::fs::create_dir_all(&images).await.context("cannot make the pictures' folder")?;
        let path = folder.join(format!("{}.manifest", kind.as_str()));
        let mut manifest = tokio::fs::File::create(&path).await.context("cannot write the manifest")?;
        let mut after = 0;
        loop {
            let all = EntryFilter::default();
            let page = self.services.store.list_entries(project, kind, &all, after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.id;
            for entry in &page {
                match whom {
                    For::Training(version) => self.must_be_wanted(project, *version).await?,
                    For::Packaging => self.must_go_on()?,
                }
                let read = read_entries(entry.line.as_bytes(), "the data set");
                let read = read.map_err(|error| JobError::Refused(shortened(&error.to_string())))?;
                // Pictures that nobody has labelled are not trained on.
                for labeled in read.iter().filter(|entry| entry.class.is_some()) {
                    let line = format!("{}\n", entry.line);
                    manifest.write_all(line.as_bytes()).await.context("cannot write the manifest")?;
                    self.fetch(&images, &labeled.source_ref).await?;
                    if let Some(mask) = &labeled.mask_ref {
                        self.fetch(&images, mask).await?;
                    }
                }
            }
        }
        manifest.flush().await.context("cannot write the manifest")?;
        Ok(path)
    }

    /// One object as a file, at its key below its bucket's folder. One that is not there is for training to tell of.
    async fn fetch(&self, images: &Path, reference: &str) -> Result<(), JobError> {
        let Some((bucket, key)) = reference.strip_prefix("s3://").and_then(|place| place.split_once('/')) else {
            return Ok(());
        };
        let place = Path::new(bucket).join(key);
        // A bucket or key that climbs out is nobody's file.
        if !place.components().all(|part| matches!(part, Component::Normal(_))) {
            return Ok(());
        }
        match self.services.objects.materialize(bucket, key, &images.join(place)).await {
            Err(linewarden_objects::ObjectError::NotFound { .. } | linewarden_objects::ObjectError::NoBucket(_))
            | Ok(()) => Ok(()),
            Err(error) => Err(of_object(error, reference)),
        }
    }

    /// The options that say where the pictures of [`Worker::lay_out`] lie.
    pub(super) async fn images(&self, folder: &Path) -> anyhow::Result<Vec<OsString>> {
        let images = folder.join("images");
        let mut options = Vec::new();
        for bucket in folders_in(&images).await.context("the pictures' folder")? {
            let mut mapping = OsString::from(format!("s3://{bucket}="));
            mapping.push(images.join(&bucket));
            options.extend([OsString::from("--images"), mapping]);
        }
        Ok(options)
    }

    fn must_go_on(&self) -> Result<(), JobError> {
        if *self.stop.borrow() { Err(JobError::Interrupted) } else { Ok(()) }
    }

    pub(super) async fn must_be_wanted(&self, project: &str, version: u64) -> Result<(), JobError> {
        self.must_go_on()?;
        match self.services.store.model(project, version).await?.status {
            ModelStatus::Training => Ok(()),
            _ => Err(JobError::Unwanted),
        }
    }
}

async fn folders_in(folder: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    let mut entries = tokio::fs::read_dir(folder).await?;
    while let Some(entry) = entries.next_entry().await? {
        if let Ok(name) = entry.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}
