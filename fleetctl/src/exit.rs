//! What a run's exit code says.

/// Exit code of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit(pub u8);

impl Exit {
    /// Every capsule did what was asked.
    pub const ALL: Self = Self(0);
    /// No capsule did.
    pub const NONE: Self = Self(1);
    /// The command line or a manifest is wrong; nothing was sent.
    pub const USAGE: Self = Self(2);
    /// Some capsules did, some did not.
    pub const SOME: Self = Self(3);
    /// `diff --exit-code`: every capsule answered and something would change.
    pub const DIFFERENT: Self = Self(4);
    /// By a signal, after cleaning up, as a shell reports SIGINT.
    pub const INTERRUPTED: Self = Self(130);
    /// Nobody reads the output any more, as a shell reports SIGPIPE.
    pub const PIPE: Self = Self(141);
}

/// Counts successes and failures of a fan-out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    succeeded: usize,
    failed: usize,
}

impl Tally {
    /// Counts one outcome.
    pub fn count<T, E>(&mut self, outcome: &Result<T, E>) {
        match outcome {
            Ok(_) => self.succeeded += 1,
            Err(_) => self.failed += 1,
        }
    }

    /// The code for what was counted; nothing asked for is nothing failed.
    pub fn exit(self) -> Exit {
        match (self.succeeded, self.failed) {
            (_, 0) => Exit::ALL,
            (0, _) => Exit::NONE,
            _ => Exit::SOME,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_tell_all_none_and_some_apart() {
        let exit = |succeeded, failed| Tally { succeeded, failed }.exit().0;
        assert_eq!((exit(2, 0), exit(0, 2), exit(1, 1), exit(0, 0)), (0, 1, 3, 0));
    }
}
