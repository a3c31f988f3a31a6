//! The file of rejected rows. Written at the length that the checkpoint names, so that a repeated batch overwrites what an
//! earlier attempt wrote for it.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::OFlags;
use windrow_queue::JobError;

use super::SourceError;

/// A file that comes to be with the first rejected row.
#[derive(Clone, Debug)]
pub(super) struct ErrorFile {
    path: PathBuf,
    file: Option<Arc<File>>,
}

impl ErrorFile {
    /// The file of this import, which has `length` bytes by the checkpoint. Blocks.
    pub(super) fn open(path: PathBuf, length: u64) -> Result<Self, SourceError> {
        if length == 0 {
            return Ok(Self { path, file: None });
        }
        let file = open(&path, false).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => SourceError::ErrorFileLost { file: path.clone() },
            _ => SourceError::ErrorFile { file: path.clone(), source: error },
        })?;
        match file.metadata() {
            Ok(metadata) if metadata.len() >= length => Ok(Self { path, file: Some(Arc::new(file)) }),
            Ok(_) => Err(SourceError::ErrorFileLost { file: path }),
            Err(source) => Err(SourceError::ErrorFile { file: path, source }),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes rows at `offset` and waits until they are on the disk: the checkpoint that counts them comes after.
    pub(super) async fn write_at(&mut self, rows: Vec<u8>, offset: u64) -> Result<(), JobError> {
        let (path, file) = (self.path.clone(), self.file.clone());
        let file = blocking(&self.path, move || {
            let file = match file {
                Some(file) => file,
                None => Arc::new(open(&path, true)?),
            };
            file.write_all_at(&rows, offset)?;
            file.sync_data()?;
            Ok(file)
        })
        .await?;
        self.file = Some(file);
        Ok(())
    }

    /// Cuts off what stands behind the end: rows of a batch that was repeated in other pieces.
    pub(super) async fn finish(&self, length: u64) -> Result<(), JobError> {
        let Some(file) = self.file.clone() else { return Ok(()) };
        blocking(&self.path, move || {
            file.set_len(length)?;
            file.sync_all()
        })
        .await
    }
}

fn open(path: &Path, create: bool) -> io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create(create)
        .truncate(false)
        .mode(0o640)
        .custom_flags(i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if create && let Some(folder) = path.parent() {
        // The file's name must outlive a crash as well as its bytes.
        File::open(folder)?.sync_all()?;
    }
    Ok(file)
}

async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, JobError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| JobError::retry("file_system", error))?
        .map_err(|source| SourceError::ErrorFile { file: path.to_owned(), source }.into())
}
