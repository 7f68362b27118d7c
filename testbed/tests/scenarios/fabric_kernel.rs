//! The fabric where the kernel has WireGuard: stories that are told elsewhere, in a guest with such a
//! kernel.

use anyhow::{Context as _, Result, ensure};
use testbed::wireguard::KIND_VARIABLE;

use crate::{
    in_guest::tell,
    mesh::{addresses, device, enroll, fleet, membership, mesh, peer, reaches, status},
};

/// In a guest, with WireGuard of this kind.
fn tell_in_guest(kind: &str, stories: &[&str]) -> Result<()> {
    tell(&[(KIND_VARIABLE, kind)], stories)
}

#[test]
fn our_device_and_the_kernels_understand_each_other() -> Result<()> {
    tell_in_guest(
        "auto",
        &[
            "wireguard::kernel::it_interoperates_with_the_kernels",
            "wireguard::kernel::it_follows_the_kernels_and_is_followed",
            "wireguard::kernel::a_connection_with_the_kernels_outlives_new_keys_and_its_own_death",
        ],
    )
}

#[test]
fn members_with_the_kernels_wireguard_keep_what_the_fabric_promises() -> Result<()> {
    tell_in_guest(
        "kernel",
        &[
            "fabric_kernel::kernels_and_processes_are_one_fabric",
            "fabric_kernel::a_rotated_key_leaves_the_kernels_sessions_with_others_as_they_are",
            "fabric_members::a_killed_agent_loses_no_packet_of_the_fabric",
            "fabric_members::a_member_whose_address_changes_is_found_again",
        ],
    )
}

#[test]
fn workloads_obey_both_ends_over_the_kernels_wireguard() -> Result<()> {
    tell_in_guest(
        "kernel",
        &["fabric_workloads::a_workload_reaches_another_by_name_only_where_both_ends_allow_it"],
    )
}

#[tokio::test]
#[ignore = "needs a kernel with WireGuard"]
async fn kernels_and_processes_are_one_fabric() -> Result<()> {
    let fleet = fleet(3).await?;
    let kinds = [("a", "kernel"), ("b", "auto"), ("c", "userspace")];
    for (name, kind) in kinds {
        fleet.capsule(name).restart_agent_with(&["--wireguard", kind]).await?;
    }
    let fleet = enroll(fleet).await?;
    for (name, _) in kinds {
        let capsule = fleet.capsule(name);
        let shown = membership(&capsule).await?["wireguard"].clone();
        let process = device(&capsule)?.context("there is no device")?.process;
        let expected = if name == "c" { "WIREGUARD_KIND_USERSPACE" } else { "WIREGUARD_KIND_KERNEL" };
        ensure!(shown == expected && process.is_some() == (name == "c"), "{name}: {shown}, {process:?}");
    }
    for (from, _) in kinds {
        for (to, _) in kinds {
            for address in addresses(&fleet.capsule(to)).await? {
                reaches(&fleet.capsule(from), address).await?;
            }
        }
    }
    fleet.passed();
    Ok(())
}

/// How many packets it costs is counted where the machine is not an emulated one.
#[tokio::test]
#[ignore = "needs a kernel with WireGuard"]
async fn a_rotated_key_leaves_the_kernels_sessions_with_others_as_they_are() -> Result<()> {
    let fleet = mesh(3).await?;
    let (a, b, c) = (fleet.capsule("a"), fleet.capsule("b"), fleet.capsule("c"));
    for to in [&b, &c] {
        reaches(&a, addresses(to).await?[0]).await?;
    }
    let (key, session) =
        (status(&b).await?["publicKey"].clone(), peer(&a, "c").await?["lastHandshake"].clone());
    fleet.fleetctl(&["fabric", "rotate-key", "b"]).await?.ok()?;
    for to in [&b, &c] {
        reaches(&a, addresses(to).await?[1]).await?;
    }
    ensure!(status(&b).await?["publicKey"] != key, "the key is the same");
    ensure!(peer(&a, "c").await?["lastHandshake"] == session, "there was another handshake");
    fleet.passed();
    Ok(())
}
