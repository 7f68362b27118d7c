//! Who may call what: the one table.

use capsule_proto::v1::Role;

/// The only method without credentials.
pub const ADOPT: &str = "/capsule.v1.Identity/Adopt";

/// Least role of every method but [`ADOPT`], by full name, and what the method does for an operator.
const LEAST_ROLES: &[(&str, Role, &str)] = &[
    ("/capsule.v1.Identity/WhoAmI", Role::Viewer, "ask who it is"),
    ("/capsule.v1.Identity/ListKeys", Role::Viewer, "list keys"),
    ("/capsule.v1.Identity/AddKey", Role::Admin, "enroll keys"),
    ("/capsule.v1.Identity/RemoveKey", Role::Admin, "remove keys"),
    // Only ever the caller's own.
    ("/capsule.v1.Identity/RotateKey", Role::Viewer, "replace itself"),
    ("/capsule.v1.Node/GetInfo", Role::Viewer, "see the capsule"),
    ("/capsule.v1.Node/Logs", Role::Viewer, "read the capsule's log"),
    ("/capsule.v1.Node/ListBoots", Role::Viewer, "see how the capsule booted"),
    ("/capsule.v1.Node/Reboot", Role::Operator, "reboot the capsule"),
    ("/capsule.v1.Node/SetHostname", Role::Operator, "rename the host"),
    ("/capsule.v1.Events/List", Role::Viewer, "read events"),
    ("/capsule.v1.Images/Pull", Role::Operator, "pull images"),
    ("/capsule.v1.Images/Push", Role::Operator, "push images"),
    ("/capsule.v1.Images/List", Role::Viewer, "list images"),
    ("/capsule.v1.Images/Remove", Role::Operator, "remove images"),
    ("/capsule.v1.Images/Prune", Role::Operator, "prune images"),
    ("/capsule.v1.Volumes/Create", Role::Operator, "create volumes"),
    ("/capsule.v1.Volumes/List", Role::Viewer, "list volumes"),
    ("/capsule.v1.Volumes/Get", Role::Viewer, "see volumes"),
    ("/capsule.v1.Volumes/Resize", Role::Operator, "resize volumes"),
    ("/capsule.v1.Volumes/Delete", Role::Operator, "delete volumes"),
    ("/capsule.v1.Volumes/GrowDisk", Role::Operator, "let the capsule use all of its disk"),
    ("/capsule.v1.Fabric/GetStatus", Role::Viewer, "see the fabric"),
    ("/capsule.v1.Fabric/EnsureKey", Role::Operator, "make the capsule's fabric key"),
    ("/capsule.v1.Fabric/GetMap", Role::Viewer, "read the member map"),
    ("/capsule.v1.Fabric/PutMap", Role::Operator, "change the fabric"),
    ("/capsule.v1.Fabric/ListDrops", Role::Viewer, "see what policies refused"),
    ("/capsule.v1.Fabric/Explain", Role::Viewer, "explain a flow"),
    ("/capsule.v1.Fabric/Leave", Role::Operator, "leave the fabric"),
    ("/capsule.v1.Updates/Push", Role::Admin, "install updates"),
    ("/capsule.v1.Updates/GetStatus", Role::Viewer, "see the capsule's slots"),
    ("/capsule.v1.Updates/Confirm", Role::Admin, "confirm updates"),
    ("/capsule.v1.Updates/Rollback", Role::Admin, "roll updates back"),
    ("/capsule.v1.Updates/List", Role::Viewer, "list updates"),
    ("/capsule.v1.Updates/ListKeys", Role::Viewer, "list release keys"),
    ("/capsule.v1.Updates/AddKey", Role::Admin, "add release keys"),
    ("/capsule.v1.Updates/RemoveKey", Role::Admin, "remove release keys"),
    ("/capsule.v1.Debug/Open", Role::Admin, "open debug shells"),
    ("/capsule.v1.Debug/List", Role::Admin, "list debug shells"),
    ("/capsule.v1.Debug/Remove", Role::Admin, "remove debug shells"),
    ("/capsule.v1.Install/ListDisks", Role::Admin, "see the machine's disks"),
    ("/capsule.v1.Install/Write", Role::Admin, "install"),
    ("/capsule.v1.Install/Finish", Role::Admin, "install"),
    ("/capsule.v1.Workloads/Apply", Role::Operator, "apply manifests"),
    ("/capsule.v1.Workloads/Plan", Role::Viewer, "see what an apply would do"),
    ("/capsule.v1.Workloads/List", Role::Viewer, "list workloads"),
    ("/capsule.v1.Workloads/Get", Role::Viewer, "see workloads"),
    ("/capsule.v1.Workloads/Delete", Role::Operator, "delete workloads"),
    ("/capsule.v1.Workloads/Start", Role::Operator, "start workloads"),
    ("/capsule.v1.Workloads/Stop", Role::Operator, "stop workloads"),
    ("/capsule.v1.Workloads/Restart", Role::Operator, "restart workloads"),
    ("/capsule.v1.Workloads/Wait", Role::Viewer, "wait for workloads"),
    ("/capsule.v1.Workloads/Logs", Role::Viewer, "read workloads' logs"),
    ("/capsule.v1.Workloads/Exec", Role::Operator, "run commands in workloads"),
    ("/capsule.v1.Workloads/CopyOut", Role::Operator, "copy files out of workloads"),
    ("/capsule.v1.Workloads/CopyIn", Role::Operator, "copy files into workloads"),
];

/// The least role that may call `method`; an unknown one is left to admins, and to the router,
/// which does not know it either.
pub fn least_role(method: &str) -> Role {
    find(method).map_or(Role::Admin, |(_, role, _)| *role)
}

/// What `method` does, as a verb with its object: `apply manifests`.
pub fn deed(method: &str) -> &str {
    find(method).map_or(method, |(_, _, deed)| *deed)
}

fn find(method: &str) -> Option<&'static (&'static str, Role, &'static str)> {
    LEAST_ROLES.iter().find(|(name, ..)| *name == method)
}

/// Whether a key of this role may call the method.
pub fn may(role: Role, method: &str) -> bool {
    role as i32 >= least_role(method) as i32
}

/// `viewer`, `operator`, `admin`.
pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Admin => "admin",
        Role::Operator => "operator",
        Role::Viewer => "viewer",
        Role::Unspecified => "no role",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;

    use super::*;

    #[test]
    fn every_method_of_the_api_has_a_least_role_and_nothing_else_has() {
        let files = prost_types::FileDescriptorSet::decode(capsule_proto::DESCRIPTORS).unwrap();
        let mut methods = BTreeSet::new();
        // Members of a fabric ask each other by no operator's key.
        for file in files.file.iter().filter(|file| file.package() == "capsule.v1") {
            for service in &file.service {
                let path = |method: &str| format!("/{}.{}/{method}", file.package(), service.name());
                methods.extend(service.method.iter().map(|method| path(method.name())));
            }
        }
        let mut known: BTreeSet<String> = LEAST_ROLES.iter().map(|(name, ..)| name.to_string()).collect();
        known.insert(ADOPT.into());
        assert_eq!(known.len(), LEAST_ROLES.len() + 1, "a method stands twice in the table");
        assert_eq!(known, methods);
        assert!(LEAST_ROLES.iter().all(|(_, role, deed)| *role != Role::Unspecified && !deed.is_empty()));
    }
}
