//! Network namespaces for tests.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// Runs a story in a network namespace of its own.
pub(crate) fn story<F: Future<Output = ()>>(tell: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(tell());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Configures it.
pub(crate) fn ip(arguments: &str) {
    let outcome = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(outcome.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&outcome.stderr));
}
