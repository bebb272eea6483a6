//! Writes one value after another and waits for each acknowledgement. usage: `acknowledged_writes [N]`
//!
//! With `strace -f -e trace=fdatasync` beside it one sees what an acknowledgement costs: no write is acknowledged before the
//! operating system was told to put it on disk. `scripts/count-syncs.sh` counts.

use std::error::Error;

use anchorhold::{Environment, LinkedAccountId, RawKey, RootKey, Vault};

fn main() -> Result<(), Box<dyn Error>> {
    let writes: u32 = std::env::args().nth(1).map_or(Ok(100), |text| text.parse())?;
    let folder = tempfile::tempdir()?;
    futures_lite::future::block_on(async {
        let root_key = RawKey::new(RootKey::from_bytes(&mut [1; 32]));
        let vault = Vault::builder(folder.path().join("vault")).root_key(root_key).open().await?;
        let key = vault.bootstrap_api_key(Environment::Test).await?;
        let account = vault.backend(&key).await?.create_account(&LinkedAccountId::new("acme")?).await?;
        for n in 0..writes {
            account.set_metadata(&format!("write {n}")).await?;
        }
        vault.close().await?;
        println!("{writes} writes, each acknowledged before the next");
        Ok(())
    })
}
