//! Whether a disk has room.
//!
//! Takes a folder that exists and bytes to write, refuses with both numbers where they do not fit. Where the system
//! cannot be asked, nothing is refused.

use super::ModelsError;
use crate::config::DISK_SPARE_BYTES;
use std::path::Path;

/// Refuses what would leave less than [`DISK_SPARE_BYTES`] free.
pub fn check(dir: &Path, needed: u64) -> Result<(), ModelsError> {
    match free(dir) {
        Some(free) if free < needed.saturating_add(DISK_SPARE_BYTES) => Err(ModelsError::Disk {
            dir: dir.to_owned(),
            needed,
            free,
        }),
        _ => Ok(()),
    }
}

/// Bytes that this user may still write below `dir`.
#[cfg(unix)]
fn free(dir: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(dir.as_os_str().as_bytes()).ok()?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `path` ends with a zero byte and `found` has the size that the call fills.
    let code = unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) };
    if code != 0 {
        return None;
    }
    // SAFETY: the call succeeded, so it has filled `found`.
    let found = unsafe { found.assume_init() };
    // Their widths differ between systems.
    #[allow(clippy::unnecessary_cast)]
    let (blocks, size) = (found.f_bavail as u64, found.f_frsize as u64);
    blocks.checked_mul(size)
}

#[cfg(not(unix))]
fn free(_: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_both_numbers() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(check(dir.path(), 1).is_ok());
        if cfg!(unix) {
            let refused = check(dir.path(), 1 << 62).expect_err("refused").to_string();
            assert!(
                refused.contains("needs 4611686018.4 GB on disk"),
                "{refused}"
            );
            assert!(refused.ends_with("GB are free"), "{refused}");
        }
        assert!(check(&dir.path().join("missing"), 1 << 62).is_ok());
    }
}
