//! The operator's configuration, loaded.

use crate::{ConfigError, Connector, Contexts, Home, KeyError, OperatorKey, Selection, Target, TargetError};

/// Contexts and key of one operator.
#[derive(Clone, Debug)]
pub struct Fleet {
    home: Home,
    contexts: Contexts,
}

impl Fleet {
    /// From `$FLEETCTL_CONFIG` or the XDG configuration directory.
    pub fn open() -> Result<Self, ConfigError> {
        Self::open_in(Home::locate()?)
    }

    /// From a directory of the caller's choice.
    pub fn open_in(home: Home) -> Result<Self, ConfigError> {
        Ok(Self { contexts: home.load()?, home })
    }

    /// Where it is kept.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Contexts as last loaded or changed.
    pub fn contexts(&self) -> &Contexts {
        &self.contexts
    }

    /// Changes contexts on the disk, and here.
    pub fn update<T, E: From<ConfigError>>(
        &mut self,
        change: impl FnOnce(&mut Contexts) -> Result<T, E>,
    ) -> Result<T, E> {
        let contexts = &mut self.contexts;
        self.home.update(|stored| {
            let value = change(stored)?;
            contexts.clone_from(stored);
            Ok(value)
        })
    }

    /// The capsules that `selection` means.
    pub fn resolve(&self, selection: &Selection) -> Result<Vec<Target>, TargetError> {
        self.contexts.resolve(selection)
    }

    /// The operator's key.
    pub fn key(&self) -> Result<OperatorKey, KeyError> {
        self.home.key()
    }

    /// What connects with the operator's key, and while that is being rotated, with the next one to
    /// the capsules that took it.
    pub fn connector(&self) -> Result<Connector, KeyError> {
        Ok(Connector::new(self.key()?)?.with_next(self.home.next_key()?))
    }
}
