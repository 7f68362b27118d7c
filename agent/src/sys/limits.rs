//! Limits of this process.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Open files that an agent with many workloads and followers may need.
const OPEN_FILES: u64 = 65_536;

/// Raises the limit of open files as far as the system lets it; says how far.
pub fn raise_open_files() -> nix::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = OPEN_FILES.max(soft);
    // Above the hard limit needs CAP_SYS_RESOURCE, which a container's root may lack.
    if wanted > hard && setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_ok() {
        return Ok(wanted);
    }
    let allowed = wanted.min(hard);
    setrlimit(Resource::RLIMIT_NOFILE, allowed, hard)?;
    Ok(allowed)
}
