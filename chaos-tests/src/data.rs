//! Data sets where they are, the generator where they are not.

use std::path::{Path, PathBuf};

/// A data set beside the repository, if this machine has it.
pub fn shared(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    let path = root.join("../shared/data").join(name);
    path.exists().then_some(path)
}
