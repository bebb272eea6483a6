//! The authority boundary is a matter of types: what a handle must not do has no method, and what must not be made has no
//! constructor. Each program under `ui/refused` must fail to compile, for the reason in its `.stderr` file. After a change that
//! words an error differently: `TRYBUILD=overwrite cargo test --test ui`, and read the difference.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The compiler whose words the `.stderr` files repeat. Another one words its errors differently: with it, every program must
/// still fail to compile, but the words are not compared.
const WORDED_BY: &str = "1.95.";

/// Says to the test, run again in a child process, which copies to compile.
const COPIES: &str = "ANCHORHOLD_UI_COPIES";

#[test]
fn authority_boundary_holds_at_compile_time() {
    let cases = trybuild::TestCases::new();
    if let Some(copies) = std::env::var_os(COPIES) {
        cases.compile_fail(Path::new(&copies).join("*.rs"));
        return;
    }
    let refused = programs(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ui/refused"));
    assert!(refused.len() >= 20, "only {} programs were found", refused.len());
    // The control: the same calls on the handles that have them.
    cases.pass("tests/ui/allowed/*.rs");
    if compiler_version().starts_with(WORDED_BY) {
        cases.compile_fail("tests/ui/refused/*.rs");
    } else {
        all_fail_to_compile(&refused);
    }
}

/// Whatever the compiler says: new `.stderr` files are written beside copies. A program that compiles still fails the test.
fn all_fail_to_compile(refused: &[PathBuf]) {
    let copies = tempfile::tempdir().unwrap();
    for path in refused {
        std::fs::copy(path, copies.path().join(path.file_name().unwrap())).unwrap();
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "authority_boundary_holds_at_compile_time"]);
    let status = child.env("TRYBUILD", "overwrite").env(COPIES, copies.path()).status().unwrap();
    assert!(status.success(), "a program that must not compile does");
}

#[test]
fn readme_shows_code_that_compiles() {
    let readme = include_str!("../README.md");
    let shown = readme.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    assert!(shown.lines().count() >= 8, "the README's code was found: {shown}");
    assert!(include_str!("ui/allowed/readme.rs").contains(shown), "ui/allowed/readme.rs is not what the README shows");
}

fn programs(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// `1.95.0` of `rustc 1.95.0 (…)`.
fn compiler_version() -> String {
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(compiler).arg("--version").output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').nth(1).unwrap().to_owned()
}
