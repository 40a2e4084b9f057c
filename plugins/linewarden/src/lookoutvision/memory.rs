//! A piece of POSIX shared memory under a name of our own.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::Mode;
use rustix::shm;

/// Removed when dropped.
#[derive(Debug)]
pub(super) struct SharedMemory {
    name: String,
    file: File,
    size_bytes: u64,
}

impl SharedMemory {
    /// A new piece of this size, which only this user may open.
    pub(super) fn new(size_bytes: usize) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("/linewarden-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let flags = shm::OFlags::CREATE | shm::OFlags::EXCL | shm::OFlags::RDWR;
        let file = File::from(shm::open(name.as_str(), flags, Mode::RUSR | Mode::WUSR)?);
        let memory = Self { name, file, size_bytes: u64::try_from(size_bytes).map_err(io::Error::other)? };
        memory.file.set_len(memory.size_bytes)?;
        Ok(memory)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, 0)
    }

    pub(super) fn read(&self, size_bytes: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; size_bytes];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // Somebody else may have removed it; then it is gone, as it should be.
        let _ = shm::unlink(self.name.as_str());
    }
}
