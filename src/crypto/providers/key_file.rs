//! A root key in a file of its own.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::text::{self, HEX_DIGITS};
use super::{KeyProvider, RootKeyError};
use crate::crypto::rng;
use crate::secret::RootKey;

const EXPECTED: &str = "64 hexadecimal digits and a line break, as `RootKey::generate_file` writes them";

/// A root key in a file that only its owner can read.
///
/// # Use case
/// A host that runs on a machine of its own: the file lies outside the vault and outside its backups.
///
/// # About
/// The file holds 64 hexadecimal digits, with or without a line break after them. [`RootKey::generate_file`] makes one.
/// Symbolic links are followed, because container platforms mount secrets as such; what is checked is the file that was opened,
/// not the name.
///
/// # Parameters
/// - `path`: the file. A relative path starts at the working directory of the moment when the vault is opened.
///
/// # Errors
/// When the vault is opened: [`RootKeyError::Unreadable`], [`Exposed`](RootKeyError::Exposed) when the file's mode lets anyone but
/// its owner in, [`NotAFile`](RootKeyError::NotAFile), [`Malformed`](RootKeyError::Malformed).
///
/// # Security
/// - The mode is checked on Unix only. Elsewhere restrict the file by its access control list.
/// - Whoever can read this file and the vault's files can read everything. Keep them in different backups.
///
/// # Example
/// ```
/// use anchorhold::{KeyFile, KeyProvider, RootKey};
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("root.key");
/// RootKey::generate_file(&path)?; // once, when the vault is set up
///
/// let provider = KeyFile::new(&path);
/// let key: RootKey = provider.root_key(&[])?; // what opening a vault does
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct KeyFile {
    path: PathBuf,
}

impl KeyFile {
    /// The root key in the file at `path`, which is read when a vault is opened.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

impl KeyProvider for KeyFile {
    fn root_key(&self, _: &[u8]) -> Result<RootKey, RootKeyError> {
        let unreadable = |source| RootKeyError::Unreadable { path: self.path.clone(), source };
        let mut file = open(&self.path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(RootKeyError::NotAFile { path: self.path.clone() });
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let mode = metadata.mode() & 0o777;
            if mode & 0o077 != 0 {
                return Err(RootKeyError::Exposed { path: self.path.clone(), mode });
            }
        }
        // One byte more than is allowed, to notice a longer file.
        let mut buffer = Zeroizing::new([0; HEX_DIGITS + 2]);
        let length = fill(&mut file, &mut *buffer).map_err(unreadable)?;
        let content = &buffer[..length];
        text::from_hex(content.strip_suffix(b"\n").unwrap_or(content)).ok_or_else(|| RootKeyError::Malformed {
            source_name: format!("the key file {}", self.path.display()),
            expected: EXPECTED,
        })
    }
}

impl RootKey {
    /// A new root key, straight from the operating system.
    ///
    /// # Panics
    /// When the operating system has no randomness.
    #[must_use]
    pub fn generate() -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        rng::fill_secret(&mut *bytes);
        Self::from_bytes(&mut bytes)
    }

    /// Draws a root key, writes it into a new file that only its owner can read (mode 0600), and returns the provider that
    /// reads it. When this returns, file and directory entry are on the disk.
    ///
    /// # Errors
    /// [`RootKeyError::NotCreated`], also when something of that name exists already: it is left as it is.
    ///
    /// # Security
    /// Whoever loses this file loses the vault's content: there is no other way in. Back it up, apart from the vault.
    ///
    /// # Example
    /// ```
    /// use anchorhold::RootKey;
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("root.key");
    /// let provider = RootKey::generate_file(&path)?;
    /// assert!(RootKey::generate_file(&path).is_err(), "never overwritten");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn generate_file(path: impl AsRef<Path>) -> Result<KeyFile, RootKeyError> {
        let path = path.as_ref();
        create(path).map_err(|source| RootKeyError::NotCreated { path: path.to_owned(), source })?;
        Ok(KeyFile::new(path))
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // A pipe in the place of the file must be refused, not waited for.
        options.custom_flags(libc::O_NONBLOCK);
    }
    options.open(path)
}

fn create(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    // Fails on whatever exists, a dangling symbolic link included.
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let mut line = Zeroizing::new([b'\n'; HEX_DIGITS + 1]);
    if let Some(digits) = line.first_chunk_mut() {
        text::to_hex(&RootKey::generate(), digits);
    }
    let mut file = options.open(path)?;
    // A half-written key file would be taken for a key; the vault must not be made with a key that a power cut takes away.
    let written = file.write_all(&*line).and_then(|()| file.sync_all()).and_then(|()| sync_folder(path));
    if written.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_file(path);
    }
    written
}

/// Makes the new entry in the folder durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Reads until `buffer` is full or the file ends, straight into `buffer`.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    fn file_with(content: &[u8]) -> (TempDir, KeyFile) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        let provider = RootKey::generate_file(&path).unwrap();
        fs::write(path, content).unwrap();
        (folder, provider)
    }

    #[test]
    fn a_generated_file_is_private_and_gives_the_same_key_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        let provider = RootKey::generate_file(&path).unwrap();
        let key = provider.root_key(&[]).unwrap();
        assert_eq!(provider.root_key(&[]).unwrap().expose_secret(), key.expose_secret());
        assert_ne!(key.expose_secret(), &[0; 32]);
        let content = fs::read(&path).unwrap();
        assert_eq!((content.len(), content[64]), (65, b'\n'));
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        }
        let other = RootKey::generate_file(folder.path().join("other.key")).unwrap();
        assert_ne!(other.root_key(&[]).unwrap().expose_secret(), key.expose_secret());
    }

    #[test]
    fn an_existing_file_is_never_overwritten() {
        let (folder, _) = file_with(b"precious");
        let path = folder.path().join("root.key");
        assert!(matches!(RootKey::generate_file(&path), Err(RootKeyError::NotCreated { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        assert!(matches!(RootKey::generate_file(folder.path().join("missing/root.key")), Err(RootKeyError::NotCreated { .. })));
    }

    #[test]
    fn the_line_break_may_be_missing_and_nothing_else_may_vary() {
        let digits = "ab".repeat(32);
        for good in [digits.clone(), format!("{digits}\n"), digits.to_uppercase()] {
            let (_folder, provider) = file_with(good.as_bytes());
            assert_eq!(provider.root_key(&[]).unwrap().expose_secret(), &[0xab; 32]);
        }
        let bad = [
            String::new(),
            digits[1..].to_owned(),
            format!("{digits}\n\n"),
            format!("{digits}\r\n"),
            format!(" {digits}"),
            format!("{digits}ab"),
            format!("{}xy", &digits[2..]),
        ];
        for bad in bad {
            let (_folder, provider) = file_with(bad.as_bytes());
            let error = provider.root_key(&[]).unwrap_err();
            assert!(matches!(error, RootKeyError::Malformed { .. }), "{bad:?}: {error}");
            assert!(!error.to_string().contains("abab"), "the message holds a part of the key");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = KeyFile::new("no/such.key").root_key(&[]).unwrap_err();
        assert!(error.to_string().starts_with("can't read the key file no/such.key"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_can_access_is_refused_also_behind_a_link() {
        use std::os::unix::fs::{PermissionsExt, symlink};

        let (folder, provider) = file_with("ab".repeat(32).as_bytes());
        let path = folder.path().join("root.key");
        let link = folder.path().join("link.key");
        symlink(&path, &link).unwrap();
        for mode in [0o600, 0o400, 0o700] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(provider.root_key(&[]).is_ok() && KeyFile::new(&link).root_key(&[]).is_ok(), "{mode:o}");
        }
        for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o666] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            for provider in [&provider, &KeyFile::new(&link)] {
                let error = provider.root_key(&[]).unwrap_err();
                assert!(matches!(error, RootKeyError::Exposed { mode: found, .. } if found == mode), "{mode:o}: {error}");
                assert!(error.to_string().contains("chmod 600"), "{error}");
            }
        }
    }

    #[cfg(unix)]
    #[test]
    fn directories_devices_and_pipes_are_refused_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        for path in [folder.path(), Path::new("/dev/zero"), pipe.as_path()] {
            let error = KeyFile::new(path).root_key(&[]).unwrap_err();
            assert!(matches!(error, RootKeyError::NotAFile { .. }), "{}: {error}", path.display());
        }
    }
}
