//! How the agent is linked.

fn main() {
    // 53 000 pointers of its tables are to be set right before it runs. Written out they are 1.2 MiB, which an
    // appliance reads and checks at every start of it; packed (glibc 2.36) they are a few KiB.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    println!("cargo::rerun-if-changed=build.rs");
}
