//! A second process that opens the vault.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anchorhold::OpenError;

use crate::common::{Host, block_on, builder, files};

const CHILD: &str = "ANCHORHOLD_TEST_SECOND_PROCESS";

#[test]
fn second_process_is_refused_and_changes_not_one_byte() {
    if let Some(path) = std::env::var_os(CHILD) {
        // This is the second process.
        match block_on(builder(Path::new(&path)).open()) {
            Err(OpenError::AlreadyOpen) => println!("second process: already open"),
            other => println!("second process: {:?}", other.map(drop)),
        }
        return;
    }
    let host = block_on(Host::new());
    block_on(host.customer("acme", "secret"));
    // Whatever is written with delay is written now.
    block_on(host.vault.head()).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let times = |path: &Path| std::fs::metadata(path).unwrap().modified().unwrap();
    let state = || files(&host.path()).into_iter().map(|(path, bytes)| (times(&path), path, bytes)).collect::<Vec<_>>();
    let before = state();
    let ask = || {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "second_process::second_process_is_refused_and_changes_not_one_byte", "--nocapture"])
            .env(CHILD, host.path())
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for _ in 0..3 {
        let said = ask();
        assert!(said.contains("second process: already open"), "{said}");
    }
    let after = state();
    assert_eq!(before.len(), after.len(), "no file more, none less");
    for ((time, path, old), (later, same, new)) in before.iter().zip(&after) {
        assert_eq!(path, same);
        assert!(old == new && time == later, "{} was written to", path.display());
    }
    // The first one never noticed.
    block_on(host.customer("another", "secret"));
    block_on(host.vault.close()).unwrap();
    // The control: nothing but the lock kept it out.
    let said = ask();
    assert!(said.contains("second process: Ok(())"), "{said}");
}
