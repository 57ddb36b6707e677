//! The sources of the program and of its tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Every source of the program: path below `src`, and text.
pub fn sources() -> BTreeMap<String, String> {
    let found = sources_below("src");
    assert!(found.len() > 50, "{}", found.len());
    found
}

/// Every source of the tests: path below `tests/it`, and text.
pub fn test_sources() -> BTreeMap<String, String> {
    let found = sources_below("tests/it");
    assert!(found.len() > 50, "{}", found.len());
    found
}

fn sources_below(folder: &str) -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let (mut found, mut todo) = (BTreeMap::new(), vec![root.clone()]);
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                found.insert(name, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    found
}
