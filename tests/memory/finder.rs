//! Looks for secrets in bytes: any eight in a row count, since an allocator overwrites the head of what is freed.

use std::collections::HashMap;

const CHUNK: usize = 8;

/// What is looked for.
#[derive(Clone)]
pub struct Finder {
    names: Vec<String>,
    chunks: HashMap<u64, usize>,
    /// By the lowest 16 bits of a chunk: is there any such?
    wanted: Vec<bool>,
}

/// A run of bytes of one secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    pub name: String,
    pub address: u64,
    pub bytes: u64,
}

impl Default for Finder {
    fn default() -> Self {
        Self { names: Vec::new(), chunks: HashMap::new(), wanted: vec![false; 1 << 16] }
    }
}

impl Finder {
    /// Looks for every eight bytes of `secret` from now on.
    pub fn add(&mut self, name: &str, secret: &[u8]) {
        assert!(secret.len() >= 2 * CHUNK, "{name} is too short to be told from anything else");
        let number = self.names.len();
        self.names.push(name.to_owned());
        for window in secret.windows(CHUNK) {
            let chunk = u64::from_ne_bytes(window.try_into().unwrap());
            self.chunks.entry(chunk).or_insert(number);
            self.wanted[(chunk & 0xffff) as usize] = true;
        }
    }

    pub fn knows(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// All runs in `bytes`, which begin at `address`.
    pub fn find(&self, bytes: &[u8], address: u64) -> Vec<Hit> {
        let mut found: Vec<Hit> = Vec::new();
        let mut at = 0;
        while at + CHUNK <= bytes.len() {
            // Most memory was never written to.
            if bytes[at..].first_chunk::<256>().is_some_and(|block| block.iter().all(|byte| *byte == 0)) {
                at += 256 - CHUNK;
                continue;
            }
            let stop = (at + 256 - CHUNK).min(bytes.len() - CHUNK + 1);
            while at < stop {
                let chunk = u64::from_ne_bytes(*bytes[at..].first_chunk().unwrap());
                if self.wanted[(chunk & 0xffff) as usize]
                    && let Some(number) = self.chunks.get(&chunk)
                {
                    note(&mut found, &self.names[*number], address + at as u64);
                }
                at += 1;
            }
        }
        found
    }
}

fn note(found: &mut Vec<Hit>, name: &str, address: u64) {
    let chunk = CHUNK as u64;
    match found.last_mut() {
        Some(last) if last.name == name && address <= last.address + last.bytes => last.bytes = address + chunk - last.address,
        _ => found.push(Hit { name: name.to_owned(), address, bytes: chunk }),
    }
}

#[test]
fn a_piece_of_a_secret_is_found_at_any_place() {
    let mut finder = Finder::default();
    let secret: Vec<u8> = (100..164).collect();
    finder.add("secret", &secret);
    for place in [0, 1, 7, 200, 249, 250, 255, 256, 257, 300, 1000 - 9] {
        for cut in [0, 3, 55] {
            let mut memory = vec![0; 1000];
            let piece = &secret[cut..secret.len().min(cut + 9)];
            memory[place..place + piece.len()].copy_from_slice(piece);
            let expected = Hit { name: "secret".into(), address: 0x7000 + place as u64, bytes: piece.len() as u64 };
            assert_eq!(finder.find(&memory, 0x7000), [expected], "{place} {cut}");
            memory[place + 2] ^= 1;
            assert_eq!(finder.find(&memory, 0), []);
        }
    }
}
