//! The operator's configuration directory: `contexts.toml` and `key.pem`.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use etcetera::BaseStrategy as _;

use crate::{ContextError, Contexts, KeyError, OperatorKey};

/// Overrides the directory.
const DIRECTORY_VARIABLE: &str = "FLEETCTL_CONFIG";
const CONTEXTS_FILE: &str = "contexts.toml";
const KEY_FILE: &str = "key.pem";
const LOCK_FILE: &str = "lock";

/// Why the configuration could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The user has no home.
    #[error("there is no home directory to keep contexts in; set {DIRECTORY_VARIABLE} to a directory")]
    NoHome,
    /// The file system refused.
    #[error("{attempt} {path}")]
    Io {
        /// "cannot read" and the like.
        attempt: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not what fleetctl writes.
    #[error(
        "{path} cannot be understood: {message}. Correct it, or move it away and adopt the capsules again"
    )]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// With line and column.
        message: String,
    },
    /// The kept member map is not one.
    #[error(
        "{path} holds no member map: {message}; move it away, and the next command asks the members for theirs"
    )]
    Map {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The change itself made no sense.
    #[error(transparent)]
    Context(#[from] ContextError),
}

/// The directory; nothing is made in it before the first write.
#[derive(Clone, Debug)]
pub struct Home {
    dir: PathBuf,
}

impl Home {
    /// `$FLEETCTL_CONFIG`, else `fleetctl` in the XDG configuration directory.
    pub fn locate() -> Result<Self, ConfigError> {
        match std::env::var_os(DIRECTORY_VARIABLE).filter(|value| !value.is_empty()) {
            Some(dir) => Ok(Self::at(dir)),
            None => etcetera::choose_base_strategy()
                .map(|base| Self::at(base.config_dir().join("fleetctl")))
                .map_err(|_| ConfigError::NoHome),
        }
    }

    /// A directory of the caller's choice.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Contexts as they are on the disk; none where there is no file.
    pub fn load(&self) -> Result<Contexts, ConfigError> {
        let path = self.dir.join(CONTEXTS_FILE);
        match fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text)
                .map_err(|error| ConfigError::Syntax { path, message: error.to_string().trim().into() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Contexts::default()),
            Err(source) => Err(ConfigError::Io { attempt: "cannot read", path, source }),
        }
    }

    /// Reads, changes and writes contexts under a lock, so that programs that run at once lose
    /// none of each other's changes. Nothing is written where `change` fails.
    pub fn update<T, E: From<ConfigError>>(
        &self,
        change: impl FnOnce(&mut Contexts) -> Result<T, E>,
    ) -> Result<T, E> {
        let _lock = self.lock()?;
        let mut contexts = self.load()?;
        let value = change(&mut contexts)?;
        let text = toml::to_string(&contexts).map_err(|error| ConfigError::Syntax {
            path: self.dir.join(CONTEXTS_FILE),
            message: error.to_string(),
        })?;
        self.write(CONTEXTS_FILE, text.as_bytes())?;
        Ok(value)
    }

    /// The operator's key; [`KeyError::Missing`] where there is none yet.
    pub fn key(&self) -> Result<OperatorKey, KeyError> {
        OperatorKey::read(&self.dir.join(KEY_FILE))
    }

    /// The operator's key, made where there is none.
    pub fn ensure_key(&self) -> Result<OperatorKey, KeyError> {
        let _lock = self.lock()?;
        match self.key() {
            Err(KeyError::Missing(_)) => {
                let key = OperatorKey::generate()?;
                self.write(KEY_FILE, key.pem().as_bytes())?;
                Ok(key)
            }
            other => other,
        }
    }

    /// Puts another key in the place of the present one, which is kept as `key.pem.old`.
    pub fn replace_key(&self, key: &OperatorKey) -> Result<(), KeyError> {
        let _lock = self.lock()?;
        let path = self.dir.join(KEY_FILE);
        let old = self.dir.join("key.pem.old");
        match fs::copy(&path, &old) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(
                    ConfigError::Io { attempt: "cannot keep the old key as", path: old, source }.into()
                );
            }
        }
        Ok(self.write(KEY_FILE, key.pem().as_bytes())?)
    }

    pub(crate) fn lock(&self) -> Result<File, ConfigError> {
        let failed = |attempt, path: &Path| {
            let path = path.to_owned();
            move |source| ConfigError::Io { attempt, path, source }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(failed("cannot make the directory", &self.dir))?;
        let path = self.dir.join(LOCK_FILE);
        let file = private_file(&path).map_err(failed("cannot open", &path))?;
        file.lock().map_err(failed("cannot lock", &path))?;
        Ok(file)
    }

    /// Whole or not at all, readable by the owner alone; durable when it returns.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> Result<(), ConfigError> {
        let path = self.dir.join(name);
        let next = self.dir.join(format!(".{name}.new"));
        let attempt = || -> io::Result<()> {
            let mut file = private_file(&next)?;
            file.set_len(0)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&next, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        attempt().map_err(|source| ConfigError::Io { attempt: "cannot write", path: path.clone(), source })
    }
}

fn private_file(path: &Path) -> io::Result<File> {
    File::options().write(true).create(true).truncate(false).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::tests::context;

    #[test]
    fn changes_made_at_once_are_all_kept() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("new"));
        std::thread::scope(|scope| {
            for n in 0..16 {
                let home = &home;
                scope.spawn(move || {
                    home.update(|all| {
                        all.insert(&format!("c{n}"), context(&format!("h{n}"), &["g"], &[("k", "v")]))
                            .map_err(ConfigError::from)
                    })
                    .unwrap();
                });
            }
        });
        assert_eq!(home.load().unwrap().contexts.len(), 16);
    }

    #[test]
    fn a_damaged_file_is_an_error_with_its_place_and_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        fs::write(dir.path().join(CONTEXTS_FILE), "current = \n").unwrap();
        let error = home.update(|_| Ok::<_, ConfigError>(())).unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
        assert_eq!(fs::read_to_string(dir.path().join(CONTEXTS_FILE)).unwrap(), "current = \n");
    }

    #[test]
    fn the_key_is_made_once_and_only_its_owner_reads_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        assert!(matches!(home.key(), Err(KeyError::Missing(_))));
        let made = home.ensure_key().unwrap();
        assert_eq!(home.ensure_key().unwrap().key_id(), made.key_id());
        let path = dir.path().join(KEY_FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = home.key().unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }
}
