//! The documents against the tree: the tests and files that they name are there, and the tables of errors, fields and settings are
//! complete.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anchorhold::Vault;

const PAGES: &[&str] = &[
    "README.md",
    "SECURITY.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/assurance.md",
    "docs/design.md",
    "docs/format.md",
    "docs/oauth.md",
    "docs/operations.md",
    "docs/performance.md",
    "docs/threat-model.md",
    "docs/token-format.md",
];

#[test]
fn every_test_and_file_that_a_page_names_is_there() {
    let (mut tests, mut files, mut missing) = (0, 0, BTreeSet::new());
    for page in PAGES {
        for name in quoted(&read(page)) {
            let Some((file, test)) = place(name) else { continue };
            if !Path::new(env!("CARGO_MANIFEST_DIR")).join(file).exists() {
                missing.insert(format!("{page}: {file}"));
            } else if let Some(test) = test {
                tests += 1;
                if !names_test(file, test) {
                    missing.insert(format!("{page}: {name}"));
                }
            } else {
                files += 1;
            }
        }
    }
    assert!(missing.is_empty(), "not there:\n{}", missing.into_iter().collect::<Vec<_>>().join("\n"));
    assert!(tests >= 30 && files >= 30, "only {tests} tests and {files} files found: are the pages read?");
    // The controls.
    assert!(names_test("tests/layering.rs", "arrows_only_go_down") && !names_test("tests/layering.rs", "arrows_only_go_up"));
    assert_eq!(place("src/lib.rs::x"), Some(("src/lib.rs", Some("x"))));
    assert_eq!(place("Vault::builder"), None);
}

#[test]
fn every_cell_of_the_table_of_attackers_names_its_test() {
    let page = read("docs/threat-model.md");
    let section = page.split("### Isolation under attack").nth(1).unwrap().split("\n### ").next().unwrap();
    let rows: Vec<Vec<&str>> = section.lines().filter_map(|line| Some(line.strip_prefix("| ")?.split('|').collect())).collect();
    let untested = |row: &[&str]| {
        row[1..5].iter().filter(|cell| !quoted(cell).any(|name| matches!(place(name), Some((_, Some(_)))))).count()
    };
    let cells: Vec<_> = rows.iter().filter(|row| !row[0].is_empty()).collect();
    assert!(cells.len() >= 7 && cells.iter().all(|row| untested(row) == 0), "{cells:?}");
    // The control: the head of the table names attackers and no test.
    assert_eq!(rows.iter().find(|row| row[0].is_empty()).map(|row| untested(row)), Some(4));
}

#[test]
fn operations_tell_of_every_error_and_of_every_field_of_the_status() {
    let page = read("docs/operations.md");
    let errors = read("src/domain/error.rs");
    for (source, of, least) in [
        (&errors, "pub enum Error {", 20),
        (&errors, "pub enum OpenError {", 10),
        (&read("src/vault.rs"), "pub struct VaultStatus {", 10),
    ] {
        let names = members(source, of);
        assert!(names.len() >= least, "{of}: {names:?}");
        let untold: Vec<_> = names.iter().filter(|name| !cells(&page).any(|cell| cell.contains(&format!("`{name}")))).collect();
        assert!(untold.is_empty(), "docs/operations.md lacks, of {of}: {untold:?}");
    }
}

#[test]
fn operations_tell_the_defaults() {
    let defaults = format!("{:?}", Vault::builder("nowhere"));
    for (setting, shown, told) in [
        ("max_open_shards", "128", "128"),
        ("return_large_blocks", "true", "`true`"),
        ("max_resident_accounts", "50000", "50,000"),
        ("mailbox_capacity", "1024", "1,024"),
        ("idle_after", "300s", "5 minutes"),
        ("stall_timeout", "10s", "10 seconds"),
        ("audit_policy", "Batched", "`Batched`"),
        ("audit_retention", "None", "everything"),
    ] {
        assert!(defaults.contains(&format!("{setting}: {shown}")), "{setting} is not {shown}: {defaults}");
        assert!(read("docs/operations.md").contains(&format!("| `{setting}` | {told} |")), "{setting}: {told}");
    }
}

fn read(path: &str) -> String {
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(whole).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What stands between backticks on one line.
fn quoted(page: &str) -> impl Iterator<Item = &str> {
    page.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// The file, and the test in it, that a quoted text names.
fn place(name: &str) -> Option<(&str, Option<&str>)> {
    let (file, test) = name.split_once("::").map_or((name, None), |(file, test)| (file, Some(test)));
    let of_the_tree = ["src/", "tests/", "docs/", "scripts/", "examples/", "benches/"].iter().any(|root| file.starts_with(root));
    let plain = file.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    (of_the_tree && plain).then_some((file, test))
}

/// Whether a file has the test, or one of the files that belong to it: `tests/runtime/*.rs` to `tests/runtime.rs`.
fn names_test(file: &str, test: &str) -> bool {
    let parts = Path::new(env!("CARGO_MANIFEST_DIR")).join(file.trim_end_matches(".rs"));
    let parts =
        fs::read_dir(parts).into_iter().flatten().map(|part| fs::read_to_string(part.unwrap().path()).unwrap_or_default());
    parts.chain([read(file)]).any(|source| source.contains(&format!("fn {test}(")))
}

/// The names of an enum's variants or a struct's fields.
fn members(source: &str, of: &str) -> BTreeSet<String> {
    let body = source.split(of).nth(1).and_then(|rest| rest.split("\n}").next()).unwrap_or_default();
    let lines = body.lines().filter_map(|line| line.strip_prefix("    "));
    let names = lines.filter(|line| line.starts_with(|c: char| c.is_ascii_alphabetic()));
    names
        .map(|line| line.trim_start_matches("pub ").chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect())
        .collect()
}

/// The first cells of all rows of all tables.
fn cells(page: &str) -> impl Iterator<Item = &str> {
    page.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
}
