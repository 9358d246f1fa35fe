//! The commands of a document: blocks that a test runs, named by a comment before them (`<!-- test: NAME -->`).

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};

/// A named block of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// What the comment says; `skip` where it is not run.
    pub name: String,
    /// Its lines.
    pub text: String,
}

/// The workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// Every block that a reader would run or copy.
///
/// # Errors
/// Where one has no name, or the document cannot be read.
pub fn blocks(document: &str) -> Result<Vec<Block>> {
    let text = std::fs::read_to_string(root().join(document))?;
    let (mut found, mut before) = (Vec::new(), "");
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let text =
                lines.by_ref().take_while(|line| *line != "```").fold(String::new(), |text, line| text + line + "\n");
            let name = before.strip_prefix("<!-- test: ").and_then(|rest| rest.strip_suffix(" -->"));
            match name {
                Some(name) => found.push(Block { name: name.to_owned(), text }),
                None => ensure!(
                    !["sh", "bash", "python", "toml"].contains(&language),
                    "a {language} block of {document} has no name:\n{text}"
                ),
            }
        }
        before = line;
    }
    Ok(found)
}

/// The text of one block.
///
/// # Errors
/// Where the document has none of that name.
pub fn block(document: &str, name: &str) -> Result<String> {
    let block = blocks(document)?.into_iter().find(|block| block.name == name);
    Ok(block.with_context(|| format!("{document} has no block {name}"))?.text)
}
