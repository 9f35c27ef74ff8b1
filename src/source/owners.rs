//! The names of a server's users and groups, which its files know by number only.

use std::collections::BTreeMap;

/// Names by number, as the server has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// Users.
    pub users: BTreeMap<u32, String>,
    /// Groups.
    pub groups: BTreeMap<u32, String>,
}
