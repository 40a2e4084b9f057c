//! Pictures and masks in POSIX shared memory.
//!
//! It is read and written as the file that it is, not mapped: a client that shortens its segment meanwhile gets an error and
//! cannot end this process.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use linewarden_proto::edge_agent::SharedMemoryHandle;
use rustix::shm::{Mode, OFlags};

/// Why a segment cannot be used; all of it is the caller's doing.
#[derive(Debug, thiserror::Error)]
pub(super) enum MemoryError {
    #[error("shared memory `{name}` cannot be opened: {error}")]
    Open { name: String, error: io::Error },
    #[error("shared memory `{name}` ends at {has} bytes, but {size} bytes from {offset} on were named")]
    TooShort { name: String, has: u64, size: u64, offset: u64 },
    #[error("shared memory `{name}` cannot be {verb}: {error}")]
    Access { name: String, verb: &'static str, error: io::Error },
}

/// The bytes that the handle names. The caller has seen to it that they are not too many.
pub(super) fn read(handle: &SharedMemoryHandle) -> Result<Vec<u8>, MemoryError> {
    let segment = open(handle, OFlags::RDONLY)?;
    let mut bytes = vec![0; usize::try_from(handle.size).unwrap_or(usize::MAX)];
    let read = segment.read_exact_at(&mut bytes, handle.offset);
    read.map_err(|error| MemoryError::Access { name: handle.name.clone(), verb: "read", error })?;
    Ok(bytes)
}

/// Writes to where the handle names, and nowhere beside it.
pub(super) fn write(handle: &SharedMemoryHandle, bytes: &[u8]) -> Result<(), MemoryError> {
    let segment = open(handle, OFlags::RDWR)?;
    let bytes = bytes.get(..usize::try_from(handle.size).unwrap_or(usize::MAX)).unwrap_or(bytes);
    let written = segment.write_all_at(bytes, handle.offset);
    written.map_err(|error| MemoryError::Access { name: handle.name.clone(), verb: "written", error })
}

fn open(handle: &SharedMemoryHandle, access: OFlags) -> Result<File, MemoryError> {
    let SharedMemoryHandle { name, size, offset } = handle;
    let failed = |error: io::Error| MemoryError::Open { name: name.clone(), error };
    // A name that leads out of the folder of shared memory is refused here.
    // Opening what is no file must not wait for its other end.
    let access = access | OFlags::from_bits_retain(rustix::fs::OFlags::NONBLOCK.bits());
    let segment = rustix::shm::open(name.as_str(), access, Mode::empty());
    let segment = File::from(segment.map_err(|error| failed(error.into()))?);
    let metadata = segment.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(failed(io::Error::other("it is no shared memory")));
    }
    let has = metadata.len();
    if offset.checked_add(*size).is_none_or(|end| end > has) {
        return Err(MemoryError::TooShort { name: name.clone(), has, size: *size, offset: *offset });
    }
    Ok(segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Segment(String);

    impl Segment {
        fn new(bytes: &[u8]) -> Self {
            static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
            let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let name = format!("/linewarden-test-{}-{number}", std::process::id());
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
            let file = File::from(rustix::shm::open(&*name, flags, Mode::RUSR | Mode::WUSR).unwrap());
            file.write_all_at(bytes, 0).unwrap();
            Self(name)
        }

        fn at(&self, offset: u64, size: u64) -> SharedMemoryHandle {
            SharedMemoryHandle { name: self.0.clone(), size, offset }
        }
    }

    impl Drop for Segment {
        fn drop(&mut self) {
            rustix::shm::unlink(&*self.0).unwrap();
        }
    }

    #[test]
    fn what_is_named_is_read_and_written_and_nothing_beside_it() {
        let segment = Segment::new(b"0123456789");
        assert_eq!(read(&segment.at(2, 3)).unwrap(), b"234");
        write(&segment.at(2, 3), b"abcdef").unwrap();
        assert_eq!(read(&segment.at(0, 10)).unwrap(), b"01abc56789");
    }

    #[test]
    fn a_wrong_name_size_or_offset_is_refused() {
        let segment = Segment::new(b"0123456789");
        for (offset, size) in [(0, 11), (10, 1), (u64::MAX, 2), (5, u64::MAX)] {
            let error = read(&segment.at(offset, size)).unwrap_err().to_string();
            assert!(error.contains("ends at 10 bytes"), "{error}");
            assert!(write(&segment.at(offset, size), b"x").is_err());
        }
        for name in ["", "/", "/..", "/a/b", "../etc/hostname", "/no-such-linewarden-segment", "\0"] {
            let handle = SharedMemoryHandle { name: name.to_owned(), size: 1, offset: 0 };
            let error = read(&handle).unwrap_err().to_string();
            assert!(error.contains("cannot be opened"), "{name:?}: {error}");
        }
    }
}
