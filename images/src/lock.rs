//! One build at a time in a folder.

use std::{
    fs::{self, File, TryLockError},
    path::Path,
};

use crate::{Error, Result, steps::say};

/// Held until it is dropped, or its process ends.
pub struct Lock(#[expect(dead_code, reason = "it is open as long as the lock is held")] File);

impl Lock {
    /// Makes the folder, and waits until nobody else builds in it.
    pub fn take(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::file("make", folder))?;
        let path = folder.join("lock");
        let file = File::create(&path).map_err(Error::file("write", &path))?;
        match file.try_lock() {
            Ok(()) => return Ok(Self(file)),
            Err(TryLockError::WouldBlock) => {
                say(&format!("waiting for another build in {}", folder.display()));
            }
            Err(TryLockError::Error(error)) => return Err(Error::file("lock", path)(error)),
        }
        file.lock().map_err(Error::file("lock", path))?;
        Ok(Self(file))
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread, time::Duration};

    use super::*;

    #[test]
    fn a_second_build_waits_for_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = Lock::take(dir.path()).unwrap();
        let (told, heard) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                let _second = Lock::take(dir.path()).unwrap();
                told.send(()).unwrap();
            });
            assert!(heard.recv_timeout(Duration::from_millis(100)).is_err());
            drop(first);
            heard.recv().unwrap();
        });
    }
}
