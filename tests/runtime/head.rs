//! The head that a host keeps elsewhere tells a vault of yesterday from the one that it wrote to.

use anchorhold::testing::ModelDisk;
use anchorhold::{Environment, OpenError, VaultHead};

use crate::common::{block_on, customer, root_key_of};
use crate::tools::{on_disk, restored};

#[test]
fn kept_head_opens_the_vault_it_is_of_and_every_newer_one_and_no_older_one() {
    block_on(async {
        let disk = ModelDisk::new();
        let vault = on_disk(&disk).open().await.unwrap();
        let backend = vault.backend(&vault.bootstrap_api_key(Environment::Test).await.unwrap()).await.unwrap();
        let mut kept = Vec::new();
        for n in 0..6 {
            let (account, _) = customer(&backend, &format!("customer {n}"), "secret").await;
            if n % 2 == 1 {
                account.set_metadata("a change that is not in the directory").await.unwrap();
            }
            // Through its text, which is what a host keeps.
            let head: VaultHead = vault.head().await.unwrap().to_string().parse().unwrap();
            assert_eq!(head, vault.head().await.unwrap(), "without a change it is the same");
            kept.push((head, disk.image()));
        }
        drop((vault, backend));

        for (age, (head, _)) in kept.iter().enumerate() {
            for (of, (_, image)) in kept.iter().enumerate() {
                let opened = on_disk(&restored(image)).expect_head(*head).open().await;
                if of >= age {
                    opened.unwrap_or_else(|error| panic!("vault {of} with head {age}: {error:?}"));
                } else {
                    assert!(matches!(opened, Err(OpenError::RolledBack(_))), "vault {of} with head {age}: {opened:?}");
                }
            }
        }
        // A refusal leaves the vault as it is, to be opened without the head.
        let disk = restored(&kept[0].1);
        assert!(on_disk(&disk).expect_head(kept[5].0).open().await.is_err());
        on_disk(&disk).expect_head(kept[0].0).open().await.unwrap();
    });
}

#[test]
fn head_of_another_vault_is_foreign_and_a_forged_one_too() {
    block_on(async {
        let (disk, other) = (ModelDisk::new(), ModelDisk::new());
        let own = on_disk(&disk).open().await.unwrap().head().await.unwrap();
        // The same root key does not make it the same vault.
        let foreign = on_disk(&other).open().await.unwrap().head().await.unwrap();
        let opened = on_disk(&disk).expect_head(foreign).open().await;
        assert!(matches!(opened, Err(OpenError::ForeignHead)), "{opened:?}");

        let text = own.to_string();
        let mut forged = 0;
        for at in "head_".len()..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            if let Ok(head) = String::from_utf8(bytes).unwrap().parse::<VaultHead>() {
                let opened = on_disk(&disk).expect_head(head).open().await;
                assert!(matches!(opened, Err(OpenError::ForeignHead)), "character {at}: {opened:?}");
                forged += 1;
            }
        }
        assert!(forged > 60, "{forged}");
        on_disk(&disk).expect_head(own).open().await.unwrap();
    });
}

#[test]
fn head_outlives_a_rotation_of_the_root_key() {
    block_on(async {
        let disk = ModelDisk::new();
        let vault = on_disk(&disk).open().await.unwrap();
        let before = vault.head().await.unwrap();
        vault.rotate_root_key(root_key_of(8)).await.unwrap();
        drop(vault);
        on_disk(&disk).root_key(root_key_of(8)).expect_head(before).open().await.unwrap();
    });
}
