//! The walls of the house, held by a machine: crate edges, who may name which crate, sizes, head comments.

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What each of our crates may depend on among ours (design.md section 2).
const EDGES: &[(&str, &[&str])] = &[
    ("docent-types", &[]),
    ("docent-placement", &["types"]),
    ("docent-proto", &["types"]),
    ("docent-runtime", &["types"]),
    ("docent-journal", &["runtime"]),
    ("docent-meta", &["types", "runtime"]),
    ("docent-raft", &["types", "runtime", "journal"]),
    ("docent-rpc", &["types", "runtime", "proto", "raft"]),
    ("docent-shard", &["types", "placement"]),
    ("docent-store", &["types", "runtime", "shard"]),
    ("docent-index", &[]),
    ("docent-model", &[]),
    ("docent-train", &["model", "placement", "runtime"]),
    ("docent-gateway", &["types", "placement", "runtime", "proto", "rpc"]),
    (
        "docent-node",
        &[
            "types",
            "placement",
            "runtime",
            "proto",
            "rpc",
            "raft",
            "journal",
            "meta",
            "shard",
            "store",
            "index",
            "model",
            "train",
            "gateway",
        ],
    ),
    ("docent-coordinator", &["types", "placement", "runtime", "proto", "rpc", "raft", "journal", "meta"]),
    ("docent", &["types", "placement", "runtime", "proto", "rpc", "coordinator", "node"]),
    ("docent-trial", &[]),
    (
        "docent-sim",
        &[
            "types",
            "placement",
            "runtime",
            "proto",
            "rpc",
            "raft",
            "journal",
            "meta",
            "shard",
            "store",
            "gateway",
            "coordinator",
            "node",
            "trial",
        ],
    ),
    ("docent-chaos", &["model", "proto", "trial"]),
];

/// Third-party crates that only these of ours may name.
const OWNERS: &[(&str, &[&str])] = &[
    ("openraft", &["docent-raft"]),
    ("openraft-rt-tokio", &["docent-raft"]),
    ("sled", &["docent-meta"]),
    ("fjall", &["docent-store"]),
    ("faiss-sys", &["docent-index"]),
    ("siphasher", &["docent-placement"]),
    ("crc32c", &["docent-journal", "docent-store"]),
    ("axum", &["docent-gateway"]),
    ("clap", &["docent", "docent-chaos", "docent-sim"]),
    ("anyhow", &["docent", "docent-chaos", "docent-sim"]),
    ("turmoil", &["docent-sim"]),
    ("stateright", &["docent-trial"]),
    ("prost", &["docent-proto"]),
    ("tonic", &["docent-proto", "docent-rpc", "docent-gateway", "docent", "docent-chaos"]),
];

/// Crates that must stay pure, and what must not be below them at any depth.
const PURE: &[&str] = &["docent-types", "docent-placement", "docent-shard", "docent-index", "docent-model"];
const IMPURE: &[&str] = &["tokio", "tonic", "openraft", "fjall", "sled", "rand", "getrandom", "mio"];

/// Code lines of a file: no blank lines, no comments, nothing from `#[cfg(test)]` on.
const FILE_LINES_MAX: usize = 500;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("chaos-tests lies in the workspace").to_owned()
}

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .other_options(vec!["--offline".into()])
        .exec()
        .unwrap()
}

fn normal_dependencies(package: &Package) -> BTreeSet<String> {
    let normal = package.dependencies.iter().filter(|dependency| dependency.kind == DependencyKind::Normal);
    normal.map(|dependency| dependency.name.clone()).collect()
}

#[test]
fn crate_edges_are_those_of_the_design() {
    let metadata = metadata();
    let table: BTreeMap<&str, &[&str]> = EDGES.iter().copied().collect();
    let ours: BTreeSet<&str> = table.keys().copied().collect();
    let mut broken = Vec::new();
    for package in metadata.workspace_packages() {
        let Some(allowed) = table.get(package.name.as_str()) else {
            broken.push(format!("{} is not in the table of the design", package.name));
            continue;
        };
        for dependency in normal_dependencies(package) {
            let short = dependency.strip_prefix("docent-").unwrap_or(&dependency);
            if ours.contains(dependency.as_str()) && !allowed.contains(&short) {
                broken.push(format!("{} must not depend on {dependency}", package.name));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn a_crate_with_one_owner_is_named_by_that_owner_alone() {
    let metadata = metadata();
    let mut broken = Vec::new();
    for package in metadata.workspace_packages() {
        let named = normal_dependencies(package);
        for (third_party, owners) in OWNERS {
            if named.contains(*third_party) && !owners.contains(&package.name.as_str()) {
                broken.push(format!("{} names {third_party}; only {owners:?} may", package.name));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn pure_crates_stand_on_nothing_impure() {
    let metadata = metadata();
    let resolve = metadata.resolve.as_ref().unwrap();
    let names: BTreeMap<_, _> = metadata.packages.iter().map(|package| (&package.id, package.name.as_str())).collect();
    let below: BTreeMap<_, Vec<_>> = resolve
        .nodes
        .iter()
        .map(|node| {
            let is_normal =
                |dep: &&cargo_metadata::NodeDep| dep.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal);
            (&node.id, node.deps.iter().filter(is_normal).map(|dep| &dep.pkg).collect())
        })
        .collect();
    for pure in PURE {
        let start = metadata.packages.iter().find(|package| package.name.as_str() == *pure).unwrap();
        let (mut seen, mut queue) = (BTreeSet::new(), vec![&start.id]);
        while let Some(id) = queue.pop() {
            if seen.insert(id) {
                queue.extend(below[id].iter().copied());
            }
        }
        let found: Vec<&str> = seen.iter().map(|id| names[*id]).filter(|name| IMPURE.contains(name)).collect();
        assert!(found.is_empty(), "{pure} must stay pure, but stands on {found:?}");
    }
}

fn sources() -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            match path.is_dir() {
                true if name != "target" && !name.starts_with('.') => walk(&path, found),
                false if name.ends_with(".rs") => found.push(path),
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), &mut found);
    found.sort();
    assert!(found.len() > 50, "the sources were not found");
    found
}

/// The code lines of production code in a file.
fn code_lines(text: &str) -> usize {
    let production = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
    production.map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")).count()
}

#[test]
fn no_file_is_too_long_and_each_says_what_it_is_for() {
    let mut broken = Vec::new();
    for path in sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        let lines = code_lines(&text);
        if lines > FILE_LINES_MAX {
            broken.push(format!("{name} has {lines} code lines; at most {FILE_LINES_MAX}: split it by idea"));
        }
        if !text.starts_with("//!") {
            broken.push(format!("{name} does not open with a //! comment that says what it is for"));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn unsafe_code_is_in_the_faiss_wrapper_and_the_kernels_alone() {
    let allowed = ["node/index/src/hnsw/", "node/index/src/exact/", "node/model/src/kernel/"];
    let mut broken = Vec::new();
    for path in sources() {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.lines().map(str::trim).filter(|line| !line.starts_with("//"));
        let has_unsafe = code
            .clone()
            .any(|line| line.starts_with("unsafe ") || line.contains(" unsafe {") || line.contains("unsafe fn"));
        if has_unsafe && !allowed.iter().any(|prefix| name.starts_with(prefix)) && !name.ends_with("tidy.rs") {
            broken.push(name);
        }
    }
    assert!(broken.is_empty(), "unsafe code outside its rooms: {broken:#?}");
}

#[test]
fn no_file_in_the_repository_is_large() {
    let listed = std::process::Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().unwrap();
    let names = String::from_utf8(listed.stdout).unwrap();
    let large: Vec<&str> = names
        .split('\0')
        .filter(|name| !name.is_empty())
        .filter(|name| std::fs::metadata(root().join(name)).is_ok_and(|meta| meta.len() > 512 << 10))
        .collect();
    assert!(large.is_empty(), "no data sets, binaries or fetched code: {large:?}");
}

/// The feature with the planted bugs is reached by its own name alone: no default leads to it, no dependency asks for it, and what builds
/// and tests the product never names it.
#[test]
fn planted_bugs_are_in_no_ordinary_build() {
    let metadata = metadata();
    let mut broken = Vec::new();
    let mut carriers = 0;
    for package in metadata.workspace_packages() {
        carriers += usize::from(package.features.contains_key("sabotage"));
        let (mut seen, mut queue) = (BTreeSet::new(), vec!["default".to_owned()]);
        while let Some(feature) = queue.pop() {
            if feature.contains("sabotage") {
                broken.push(format!("a default feature of {} leads to {feature}", package.name));
            }
            if seen.insert(feature.clone()) {
                queue.extend(package.features.get(&feature).into_iter().flatten().cloned());
            }
        }
        let asks = package.dependencies.iter().filter(|dependency| dependency.features.iter().any(|f| f == "sabotage"));
        broken.extend(asks.map(|dependency| format!("{} asks for the sabotage of {}", package.name, dependency.name)));
    }
    assert!(carriers >= 2, "nobody has the feature any more: what does `make sabotage` prove?");
    let makefile = std::fs::read_to_string(root().join("Makefile")).unwrap();
    for recipe in ["build", "demo", "test", "check"] {
        let text = makefile.split(&format!("\n{recipe}:")).nth(1).unwrap();
        let text = text.split("\n\n").next().unwrap();
        if text.contains("sabotage") || text.contains("--all-features") {
            broken.push(format!("`make {recipe}` builds planted bugs"));
        }
    }
    for file in [".ci/run", ".ci/setup", ".cargo/config.toml", ".config/nextest.toml"] {
        if std::fs::read_to_string(root().join(file)).unwrap().to_lowercase().contains("sabotage") {
            broken.push(format!("{file} names planted bugs"));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}
