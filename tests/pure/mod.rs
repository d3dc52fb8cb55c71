//! Properties of the pure parsers. The invariants are shared with the fuzz targets
//! (`fuzz/`): here proptest makes input that is nearly right, there libFuzzer makes
//! everything else.

mod chunked;
mod command;
mod conditional;
mod facts;
mod file;
mod head;
mod invariants;
mod path;
mod range;

use proptest::prelude::ProptestConfig;

/// Failures become unit tests beside the code; proptest's own files of seeds would only
/// litter the tree.
fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}
