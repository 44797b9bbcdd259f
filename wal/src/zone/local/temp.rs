//! Files that have no key yet.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, linkat, mkdirat, openat, unlinkat};
use rustix::io::Errno;

/// No key begins with a dot.
const TEMP_DIR: &str = ".tmp";

/// Makes temporary files: without a name where the file system can, else in a directory of their own.
#[derive(Debug)]
pub(super) struct TempFiles {
    dir: OwnedFd,
    nameless: bool,
    next: AtomicU64,
}

/// A file that disappears with this value unless it was linked, and then its temporary name does.
#[derive(Debug)]
pub(super) struct TempFile<'a> {
    file: File,
    /// `None` for a file without a name.
    name: Option<(&'a OwnedFd, String)>,
}

impl TempFiles {
    /// Removes what earlier processes left, and finds out what the file system can.
    pub(super) fn open(root: &OwnedFd) -> rustix::io::Result<Self> {
        match mkdirat(root, TEMP_DIR, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let dir = openat(root, TEMP_DIR, flags, Mode::empty())?;
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                match unlinkat(&dir, entry.file_name(), AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let mut files = Self {
            dir,
            nameless: true,
            next: AtomicU64::new(0),
        };
        files.nameless = files.can_link_nameless();
        Ok(files)
    }

    #[cfg(test)]
    pub(super) fn with_names(root: &OwnedFd) -> rustix::io::Result<Self> {
        Ok(Self {
            nameless: false,
            ..Self::open(root)?
        })
    }

    fn can_link_nameless(&self) -> bool {
        let name = self.next_name();
        let linked = self
            .create(&self.dir)
            .is_ok_and(|mut temp| temp.link(&self.dir, &name).is_ok());
        if linked {
            let _ = unlinkat(&self.dir, &name, AtFlags::empty());
        }
        linked
    }

    /// A file to be linked into `dir`.
    pub(super) fn create(&self, dir: &OwnedFd) -> std::io::Result<TempFile<'_>> {
        let mode = Mode::from_raw_mode(0o644);
        if self.nameless {
            let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
            let file = openat(dir, ".", flags, mode)?;
            return Ok(TempFile {
                file: file.into(),
                name: None,
            });
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        loop {
            let name = self.next_name();
            match openat(&self.dir, &name, flags, mode) {
                Ok(file) => {
                    return Ok(TempFile {
                        file: file.into(),
                        name: Some((&self.dir, name)),
                    });
                }
                // Another process with our number, in another container.
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn next_name(&self) -> String {
        format!(
            "{}-{}",
            std::process::id(),
            self.next.fetch_add(1, Ordering::Relaxed)
        )
    }
}

impl TempFile<'_> {
    pub(super) fn file(&mut self) -> &File {
        &self.file
    }

    /// Gives the file a name in `dir`; `EXIST` if it is taken.
    pub(super) fn link(&mut self, dir: &OwnedFd, name: &str) -> rustix::io::Result<()> {
        match &self.name {
            Some((temp_dir, temp)) => linkat(temp_dir.as_fd(), temp, dir, name, AtFlags::empty()),
            None => {
                // By its descriptor alone it takes a privilege; by way of /proc it does not.
                let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                linkat(CWD, path, dir, name, AtFlags::SYMLINK_FOLLOW)
            }
        }
    }
}

impl Drop for TempFile<'_> {
    fn drop(&mut self) {
        if let Some((dir, name)) = &self.name {
            let _ = unlinkat(dir, name, AtFlags::empty());
        }
    }
}
