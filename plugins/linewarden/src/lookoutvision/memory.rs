//! A piece of POSIX shared memory under a name of our own.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, Mode, fallocate};
use rustix::io::Errno;
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
        let size_bytes = u64::try_from(size_bytes).map_err(io::Error::other)?;
        let (name, file) = Self::create()?;
        let memory = Self { name, file, size_bytes };
        memory.file.set_len(size_bytes)?;
        // All of it now: where too little is left, that shows here, and not when the agent writes.
        match fallocate(&memory.file, FallocateFlags::empty(), 0, size_bytes) {
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(memory),
            Err(error) => Err(error.into()),
        }
    }

    /// Under the next name that is free: a killed process of our number may have left some, and so may have another copy of
    /// the plugin in this one.
    fn create() -> io::Result<(String, File)> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let flags = shm::OFlags::CREATE | shm::OFlags::EXCL | shm::OFlags::RDWR;
        loop {
            let name = format!("/linewarden-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            match shm::open(name.as_str(), flags, Mode::RUSR | Mode::WUSR) {
                Ok(file) => return Ok((name, File::from(file))),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
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
