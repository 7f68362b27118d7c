//! Who may call what: the one table.

use capsule_proto::v1::Role;

/// The only method without credentials.
pub const ADOPT: &str = "/capsule.v1.Identity/Adopt";

/// Least role of every method but [`ADOPT`], by full name.
const LEAST_ROLES: &[(&str, Role)] = &[
    ("/capsule.v1.Identity/WhoAmI", Role::Viewer),
    ("/capsule.v1.Identity/ListKeys", Role::Viewer),
    ("/capsule.v1.Identity/AddKey", Role::Admin),
    ("/capsule.v1.Identity/RemoveKey", Role::Admin),
    // Only ever the caller's own.
    ("/capsule.v1.Identity/RotateKey", Role::Viewer),
    ("/capsule.v1.Node/GetInfo", Role::Viewer),
    ("/capsule.v1.Node/Logs", Role::Viewer),
    ("/capsule.v1.Events/List", Role::Viewer),
    ("/capsule.v1.Images/Pull", Role::Operator),
    ("/capsule.v1.Images/Push", Role::Operator),
    ("/capsule.v1.Images/List", Role::Viewer),
    ("/capsule.v1.Images/Remove", Role::Operator),
    ("/capsule.v1.Images/Prune", Role::Operator),
    ("/capsule.v1.Volumes/Create", Role::Operator),
    ("/capsule.v1.Volumes/List", Role::Viewer),
    ("/capsule.v1.Volumes/Get", Role::Viewer),
    ("/capsule.v1.Volumes/Resize", Role::Operator),
    ("/capsule.v1.Volumes/Delete", Role::Operator),
    ("/capsule.v1.Workloads/Apply", Role::Operator),
    ("/capsule.v1.Workloads/List", Role::Viewer),
    ("/capsule.v1.Workloads/Get", Role::Viewer),
    ("/capsule.v1.Workloads/Delete", Role::Operator),
    ("/capsule.v1.Workloads/Start", Role::Operator),
    ("/capsule.v1.Workloads/Stop", Role::Operator),
    ("/capsule.v1.Workloads/Restart", Role::Operator),
    ("/capsule.v1.Workloads/Wait", Role::Viewer),
    ("/capsule.v1.Workloads/Logs", Role::Viewer),
    ("/capsule.v1.Workloads/Exec", Role::Operator),
    ("/capsule.v1.Workloads/CopyOut", Role::Operator),
    ("/capsule.v1.Workloads/CopyIn", Role::Operator),
];

/// The least role that may call `method`; an unknown one is left to admins, and to the router,
/// which does not know it either.
pub fn least_role(method: &str) -> Role {
    LEAST_ROLES.iter().find(|(name, _)| *name == method).map_or(Role::Admin, |(_, role)| *role)
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
        for file in &files.file {
            for service in &file.service {
                let path = |method: &str| format!("/{}.{}/{method}", file.package(), service.name());
                methods.extend(service.method.iter().map(|method| path(method.name())));
            }
        }
        let mut known: BTreeSet<String> = LEAST_ROLES.iter().map(|(name, _)| name.to_string()).collect();
        known.insert(ADOPT.into());
        assert_eq!(known.len(), LEAST_ROLES.len() + 1, "a method stands twice in the table");
        assert_eq!(known, methods);
        assert!(LEAST_ROLES.iter().all(|(_, role)| *role != Role::Unspecified));
    }
}
