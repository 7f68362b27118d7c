//! Why a call is refused, in words that say what would make it succeed.

use std::time::{Duration, UNIX_EPOCH};

use capsule_proto::{
    KeyId,
    token::{MAX_LIFETIME, MAX_SKEW},
    v1::Role,
};

use super::{
    Purpose,
    roles::{deed, role_name},
};

/// A refused call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// TLS without a client certificate.
    #[error("the connection proves no operator key; connect with the client certificate of an enrolled key")]
    NoCertificate,
    /// A key that nobody enrolled, or that was removed.
    #[error(
        "operator key {0} is not enrolled on this capsule; ask one of its admins to run `fleetctl key add` with the \
         line that your `fleetctl key show` prints, or adopt the capsule while its claim window is open"
    )]
    NotEnrolled(KeyId),
    /// No usable token.
    #[error("the call carries no valid token: {0}")]
    Token(String),
    /// `aud` is another capsule.
    #[error("the call's token is for capsule {named}, this is {capsule}")]
    Audience {
        /// In the token.
        named: String,
        /// This one.
        capsule: String,
    },
    /// `method` is another method.
    #[error("the call's token is for method {named}, this is {method}")]
    Method {
        /// In the token.
        named: String,
        /// Called.
        method: String,
    },
    /// `exp` is past.
    #[error(
        "the call's token expired {} s ago: it was signed at {} by the caller's clock and the capsule's clock says {}; \
         sign a new one for each call, or, if it was just signed, set the clock that is wrong",
        .now.saturating_sub(*.exp), utc(*.iat), utc(*.now)
    )]
    Expired {
        /// Signed, seconds since the epoch.
        iat: u64,
        /// End, seconds since the epoch.
        exp: u64,
        /// The capsule's time.
        now: u64,
    },
    /// The clocks differ too much.
    #[error(
        "the clocks differ by {} s: the caller's said {} when it signed, the capsule's says {}; at most {} s are \
         allowed, set the clock that is wrong",
        .iat.abs_diff(*.now), utc(*.iat), utc(*.now), MAX_SKEW.as_secs()
    )]
    Skew {
        /// Signed, seconds since the epoch.
        iat: u64,
        /// The capsule's time.
        now: u64,
    },
    /// Older than what the key's tokens said before, on a capsule whose clock nobody vouches for.
    #[error(
        "the call's token was signed at {}, but a token of this key was signed at {} or later: while nothing          synchronises the capsule's clock, a key's time goes only forward. Set the clock of the caller; if an earlier          caller's was ahead, give the capsule a time server, or use another key",
        utc(*.iat), utc(*.floor)
    )]
    Backward {
        /// Signed, seconds since the epoch.
        iat: u64,
        /// What time it is at least, by this key.
        floor: u64,
    },
    /// `exp` is too far from `iat`.
    #[error("the call's token is good for {} s; at most {} s are allowed", .0, MAX_LIFETIME.as_secs())]
    Lifetime(u64),
    /// `jti` was seen before.
    #[error("the call's token was used before; sign a new one for each call")]
    Replayed,
    /// No room to remember another `jti`.
    #[error("this capsule took too many calls in the last minute to take more; wait some seconds")]
    Busy,
    /// The key may not do this.
    #[error(
        "your key ({key}) has role {} on this capsule, and to {} it needs role {}; one of the capsule's admins can \
         give it with `fleetctl key add KEY --role {}`, where KEY is the line that your `fleetctl key show` prints",
        role_name(*.has), deed(.method), role_name(*.needs), role_name(*.needs)
    )]
    Role {
        /// Its name.
        key: String,
        /// Its role.
        has: Role,
        /// The least role.
        needs: Role,
        /// Called.
        method: String,
    },
    /// Adoption is over.
    #[error(
        "this capsule has been adopted already, by key {key} ({name}); ask its owner to run `fleetctl key add` with \
         the line that your `fleetctl key show` prints, then run `fleetctl context add`"
    )]
    Claimed {
        /// Who won.
        key: String,
        /// Its name.
        name: String,
    },
    /// Nobody adopted in time.
    #[error(
        "the claim window closed {} minutes after the agent's start; restart capsuled on the host to open it again",
        .0.as_secs() / 60
    )]
    WindowClosed(Duration),
    /// A capsule is adopted, an installer installs; not the other way round.
    #[error("{}", told(*.0))]
    Purpose(Purpose),
    /// Too many refusals before this one.
    #[error("too many calls from {0} were refused; wait a minute and correct what was wrong with them")]
    Limited(std::net::IpAddr),
}

impl Refusal {
    /// Where the time was the key's own floor: says that, instead of what the clock says.
    pub(super) fn by_floor(self, is_floor: bool) -> Self {
        match self {
            Self::Expired { iat, now: floor, .. } | Self::Skew { iat, now: floor } if is_floor => {
                Self::Backward { iat, floor }
            }
            other => other,
        }
    }

    /// One word, by which refusals are told apart in logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no-certificate",
            Self::NotEnrolled(_) => "not-enrolled",
            Self::Token(_) => "token",
            Self::Audience { .. } => "audience",
            Self::Method { .. } => "method",
            Self::Expired { .. } => "expired",
            Self::Skew { .. } => "skew",
            Self::Backward { .. } => "backward",
            Self::Lifetime(_) => "lifetime",
            Self::Replayed => "replayed",
            Self::Busy => "busy",
            Self::Role { .. } => "role",
            Self::Claimed { .. } => "claimed",
            Self::WindowClosed(_) => "window-closed",
            Self::Purpose(_) => "purpose",
            Self::Limited(_) => "limited",
        }
    }
}

fn told(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Serve => {
            "this is a capsule already, and no installer: to install its machine anew, boot that from a stick with \
             the image; docs/install.md tells how"
        }
        Purpose::Install => {
            "this is an installer and nothing to adopt: `fleetctl install` puts a capsule on one of its machine's \
             disks, which is adopted then"
        }
    }
}

fn utc(seconds: u64) -> String {
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    let at = at.and_then(|at| jiff::Timestamp::try_from(at).ok());
    at.map_or_else(|| format!("second {seconds}"), |at| at.to_string())
}
