//! A list as it is written in `[plugin.config]`: the keys that lists of addresses and of domains share.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::codes::Code;
use crate::list::{Kind, List};

/// A list, as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListConfig {
    zone: String,
    /// What an answer weighs that `codes` does not name. Negative for a list of the good.
    #[serde(default = "default_weight")]
    weight: i32,
    #[serde(default)]
    codes: BTreeMap<String, Code>,
    #[serde(default = "default_test_points")]
    test_points: bool,
}

impl ListConfig {
    /// The list, which keeps this.
    ///
    /// # Errors
    /// Those of [`List::new`].
    pub fn check(self, kind: Kind) -> Result<List, String> {
        List::new(&self.zone, kind, self.weight, self.codes, self.test_points)
    }
}

/// What an answer of a list weighs where the configuration does not say.
pub fn default_weight() -> i32 {
    1
}

/// A list has those of RFC 5782 where the configuration does not say.
pub fn default_test_points() -> bool {
    true
}
