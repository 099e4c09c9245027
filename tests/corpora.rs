//! Every fuzz target's seeds, replayed through the same bodies as the fuzzer runs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../fuzz/bodies.rs"]
mod bodies;

use std::fs;
use std::path::{Path, PathBuf};

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn seeds(target: &str) -> Vec<PathBuf> {
    let folder = fuzz().join("seeds").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn every_seed_keeps_the_promises_of_its_target() {
    for (target, body) in bodies::TARGETS {
        let seeds = seeds(target);
        assert!(seeds.len() >= 8, "{target} has {} seeds", seeds.len());
        for seed in seeds {
            let bytes = fs::read(&seed).unwrap();
            // A panic names the assertion; this names the seed.
            eprintln!("{}", seed.display());
            body(&bytes);
        }
    }
}

#[test]
fn no_cut_of_a_seed_breaks_a_promise() {
    for (target, body) in bodies::TARGETS {
        for seed in seeds(target) {
            let bytes = fs::read(&seed).unwrap();
            eprintln!("{}", seed.display());
            for end in (0..bytes.len()).step_by(1 + bytes.len() / 64) {
                body(&bytes[..end]);
            }
        }
    }
}

#[test]
fn every_target_is_built_and_has_seeds() {
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    let names = |folder: &str| {
        let entries = fs::read_dir(fuzz().join(folder)).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect();
        names.sort_unstable();
        names
    };
    let mut targets: Vec<String> = bodies::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    targets.sort_unstable();
    assert_eq!(names("fuzz_targets"), targets);
    assert_eq!(names("seeds"), targets);
    for target in targets {
        assert!(manifest.contains(&format!("name = \"{target}\"")), "{target} is not in fuzz/Cargo.toml");
    }
}
